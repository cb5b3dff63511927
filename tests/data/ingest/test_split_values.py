"""Split columns say train, validation and test in many ways."""

from __future__ import annotations

from typing import Any

import pytest

from data.ingest.split_values import split_of


@pytest.mark.parametrize(
    ("value", "column", "split"),
    [
        *((word, "split", "train") for word in ("train", "TRAIN", " Training ", "0", 0, "0.0")),
        *((word, "fold", "validation") for word in ("val", "valid", "validation", "dev", "eval", "Evaluation", 1, "1")),
        *((word, "fold", "test") for word in ("test", "testing", "hold-out", 2, "2.0")),
        (1, "is_test", "test"), ("True", "is_test", "test"), (0, "is_test", "train"), ("yes", "is_valid", "validation"),
        (1, "is_train", "train"), (0, "is_train", "validation"), ("false", "training", "validation"), (1, "testset", "test"),
        ("other", "split", None), ("3", "split", None), (7, "split", None), ("yes", "split", None),
    ],
)  # fmt: skip
def test_a_value_names_a_split(value: Any, column: str, split: str | None) -> None:
    assert split_of(value, column) == split
