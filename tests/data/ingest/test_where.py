"""Conditions choose rows by comparing, and never run what they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ingest.where import conditions
from mlx_phi3v.errors import UserError

ROW = {"Published": "1", "Price": "12.50", "Brand": "Acme", "Stock": None, "flag": True, "price": {"amount": 5}, "a == b": "x"}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("Published == 1", True),
        ("Published == 1.0", True),
        ("Published = 1", True),
        ("Published != 1", False),
        ("Price > 9", True),
        ("Price < 9", False),
        ("Price >= 12.5", True),
        ("Brand == acme", True),
        ("Brand == 'ACME'", True),
        ('"Brand" != "Other"', True),
        ("Stock == ''", True),
        ("Stock > 0", False),
        ("Stock != 0", True),
        ("Brand > 5", False),
        ("price.amount <= 5", True),
        ("flag == 1", True),
        ({"Published": 1}, True),
        ({"Published": True}, True),
        ({"Published": False}, False),
        ({"Brand": ["Other", "Acme"]}, True),
        ({"Brand": ["Other"], "Published": 1}, False),
        ({"Stock": None}, True),
        (["Price > 9", {"Brand": "Acme"}], True),
        (["Price > 9", "Price < 10"], False),
        (None, True),
    ],
)
def test_a_row_is_compared(where: Any, holds: bool) -> None:
    assert all(item.holds(ROW) for item in conditions(where, "s.csv")) is holds


@pytest.mark.parametrize("where", ["Published", "", "== 1", 5, ["Price"], {"Price": {"a": 1}}, {"Price": []}])
def test_what_is_no_condition_is_one_sentence(where: Any) -> None:
    with pytest.raises(UserError, match="write"):
        conditions(where, "s.csv")


@settings(max_examples=200)
@given(
    st.text(max_size=30),
    st.none() | st.text(max_size=10) | st.floats() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
)
def test_any_condition_holds_or_not_or_is_a_sentence(text: str, value: Any) -> None:
    try:
        found = conditions(f"a == {text}" if "==" not in text else text, "s.csv")
    except UserError:
        return
    assert all(item.holds({"a": value}) in (True, False) for item in found)
