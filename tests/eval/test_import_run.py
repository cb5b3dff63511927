"""Predictions of other tools: a price reads as ingest reads it, in the currency of its field."""

from __future__ import annotations

import pytest

from eval.runs.imported import parse_field
from mlx_phi3v.task import Field, ParsedField


@pytest.mark.parametrize(
    ("value", "currency", "parsed"),
    [
        (1290, "USD", 1290.0),
        ("1290.0", "USD", 1290.0),
        ("1,290.00", "USD", 1290.0),
        ("$1,290.00", "USD", 1290.0),
        ("1.290,00 €", "EUR", 1290.0),
        ("RM 59.90", "MYR", 59.9),
        ("€12", "USD", None),
        ("about 12", "USD", None),
    ],
)
def test_a_price_is_read_with_its_sign(value: object, currency: str, parsed: float | None) -> None:
    expected = ParsedField(parsed, "ok" if parsed is not None else "malformed")
    assert parse_field(Field("price", "number", currency), value) == expected
