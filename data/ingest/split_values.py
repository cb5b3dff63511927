"""The split that a cell of a source's own split column names."""

from __future__ import annotations

from typing import Any

from .column_names import folded
from .sources import SPLIT_NAMES
from .values import truth

_FURTHER = {
    "tr": "train", "trn": "train", "fit": "train",
    "eval": "validation", "evaluation": "validation", "development": "validation", "vld": "validation",
    "tst": "test", "te": "test", "holdout": "test", "hold out": "test", "held out": "test",
}  # fmt: skip
_NAMES = SPLIT_NAMES | _FURTHER
_NUMBERED = {"0": "train", "1": "validation", "2": "test"}


def split_of(value: Any, column: str) -> str | None:
    """The split that `value` means in a column of this name, or None.

    In a column such as is_test or is_valid 1 is that split and 0 is train; in is_train 0 is validation. In any other
    column 0 is train, 1 validation and 2 test.

    >>> split_of("eval", "fold"), split_of(1, "is_test"), split_of("0", "split"), split_of("False", "is_train")
    ('validation', 'test', 'train', 'validation')
    """
    word = str(value).strip().lower().replace("_", " ").replace("-", " ")
    if (named := _NAMES.get(word)) is not None:
        return named
    flag = _flagged(column)
    if flag is not None and (found := truth(word)) is not None:
        return flag if found else "validation" if flag == "train" else "train"
    return _NUMBERED.get(word.removesuffix(".0"))


def _flagged(column: str) -> str | None:
    """The split that a column of yes and no is about: is_test, testing, for_validation."""
    name = folded(column.rpartition(".")[2]).removeprefix("is").removeprefix("for").removeprefix("in").removesuffix("set")
    return _NAMES.get(name)
