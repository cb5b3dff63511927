"""The metrics of each kind of field: one function each, registered with what a report needs.

category  accuracy, macro-F1
number    share within 1, 5, 10, 25 %, median and mean absolute percentage error, signed log error, slips by 10 or 100
text      exact match, rapidfuzz ratio
score     its mean, as another harness gave it
all       parse failures

Rows without a true value are not judged. An answer that does not parse is wrong: it fails accuracy and every price
band and scores 0 in the ratio. It has no percentage error: those are over parsed rows, and reports give their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .statistics import Bools, Floats, MacroF1, Mean, Median, Statistic

if TYPE_CHECKING:  # so that the verdict needs no more than numpy and scipy
    from ..runs.columns import FieldColumn

BANDS = (1, 5, 10, 25)  # per cent
_SLIP_BAND = 1.25  # a slip is within this factor of ten or a hundred times the true price, or of a tenth or hundredth of it
_ROUNDING = 1e-9  # 110 is within 10 % of 100 also in binary

Form = Literal["proportion", "mean", "median", "macro_f1"]
Unit = Literal["share", "plain"]
RowValues = tuple[Floats, Bools]  # a value for each row [n], and which rows count [n]
Rows = TypeVar("Rows", bound=Callable[..., RowValues])


@dataclass(frozen=True)
class Metric:
    """A metric of one kind of field. `better` is +1 where more is better, -1 where less, 0 where zero is best."""

    name: str
    label: str
    form: Form
    better: int
    rows: Callable[[FieldColumn], RowValues] | None = None  # None: macro-F1, which has no value of a single row
    unit: Unit = "share"
    bounded: bool = False  # each row's value is in [0, 1]

    @property
    def judged(self) -> bool:
        """Whether a verdict may rest on it: a share, or a mean of values in [0, 1], tested by a score statistic."""
        return self.form == "proportion" or (self.form == "mean" and self.bounded)

    def statistics(self, columns: Sequence[FieldColumn]) -> list[Statistic]:
        """The metric of several runs (their columns aligned), as statistics to be resampled together."""
        if self.rows is None:
            return macro_f1(columns)
        estimator = Median if self.form == "median" else Mean
        return [estimator(*self.rows(column)) for column in columns]


METRICS: dict[str, tuple[Metric, ...]] = {"category": (), "number": (), "text": (), "score": ()}  # in the order of a report


def metric(
    *kinds: str, label: str, form: Form, better: int, name: str = "", unit: Unit = "share", bounded: bool = False
) -> Callable[[Rows], Rows]:
    """Register a function column -> (values [n], mask [n]) as a metric of these kinds of field."""

    def register(rows: Rows) -> Rows:
        made = Metric(name or getattr(rows, "__name__", ""), label, form, better, rows, unit, bounded)
        for kind in kinds:
            METRICS[kind] += (made,)
        return rows

    return register


def get_metric(kind: str, name: str) -> Metric:
    """The metric of that name; KeyError where the kind has none."""
    return {item.name: item for item in METRICS[kind]}[name]


@metric("category", label="accuracy", form="proportion", better=+1)
def accuracy(column: FieldColumn) -> RowValues:
    """Whether the category is right."""
    return _share(column.parsed & column.has_truth & (column.true == column.predicted)), column.has_truth


METRICS["category"] += (Metric("macro_f1", "macro-F1", "macro_f1", +1, bounded=True),)


def macro_f1(columns: Sequence[FieldColumn]) -> list[Statistic]:
    """Mean F1 over the classes of the truth; the runs' codes are of one list of classes."""
    names = sorted({v for c in columns for v in (*set(c.true.tolist()), *set(c.predicted.tolist())) if v is not None})
    code = {name: index for index, name in enumerate(names)}

    def codes(values: NDArray[Any]) -> NDArray[np.int64]:
        return np.array([code.get(value, -1) for value in values], dtype=np.int64)

    return [MacroF1(codes(column.true), codes(column.predicted), max(len(names), 1)) for column in columns]


def within(column: FieldColumn, band: int) -> RowValues:
    """Whether the number is within `band` per cent of the true one."""
    true, predicted = _numbers(column)
    with np.errstate(invalid="ignore"):
        near = np.abs(predicted - true) <= (band / 100 + _ROUNDING) * np.abs(true)
    return _share(column.has_truth & column.parsed & near), column.has_truth


for _band in BANDS:
    metric("number", label=f"within {_band} %", form="proportion", better=+1, name=f"within_{_band}")(
        partial(within, band=_band)
    )


@metric("number", label="mean abs. error", form="mean", better=-1, name="mean_ape")
@metric("number", label="median abs. error", form="median", better=-1, name="median_ape")  # the lower one is registered first
def absolute_percentage_error(column: FieldColumn) -> RowValues:
    """|predicted - true| / |true|, over parsed rows whose true number is not zero."""
    true, predicted = _numbers(column)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.nan_to_num(np.abs(predicted - true) / np.abs(true), posinf=0.0)
    return error, column.has_truth & column.parsed & (true != 0)


@metric("number", label="signed log error", form="mean", better=0, unit="plain")
def log_error(column: FieldColumn) -> RowValues:
    """ln(predicted / true), over parsed rows with both above zero."""
    true, predicted = _numbers(column)
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = column.has_truth & column.parsed & (true > 0) & (predicted > 0)
        return np.where(positive, np.log(predicted / true), 0.0), positive


@metric("number", label="slips by 10 or 100", form="proportion", better=-1)
def slips(column: FieldColumn) -> RowValues:
    """Whether the number is off by about ten or a hundred times, in either direction."""
    error, positive = log_error(column)
    tens = error / np.log(10)
    near = np.abs(tens - np.round(tens)) <= np.log10(_SLIP_BAND)
    return _share(positive & near & np.isin(np.abs(np.round(tens)), (1, 2))), column.has_truth


@metric("text", label="exact match", form="proportion", better=+1)
def exact(column: FieldColumn) -> RowValues:
    """Whether the text is the true one."""
    return _share(column.exact), column.has_truth


@metric("text", label="rapidfuzz ratio", form="mean", better=+1, bounded=True)
def ratio(column: FieldColumn) -> RowValues:
    """Likeness of the text to the true one, 0 to 1 (`rapidfuzz.fuzz.ratio` / 100)."""
    return column.ratio, column.has_truth


@metric("score", label="score", form="mean", better=+1, bounded=True)
def score(column: FieldColumn) -> RowValues:
    """The score that the harness gave, 0 to 1; 0 where it gave none."""
    return np.nan_to_num(np.clip(_numbers(column)[1], 0.0, 1.0)), column.has_truth


@metric("category", "number", "text", "score", label="not parsed", form="proportion", better=-1)
def parse_failures(column: FieldColumn) -> RowValues:
    """Whether the answer gave no value for the field."""
    return _share(~column.parsed), column.has_truth


def _share(hits: Bools) -> Floats:
    return hits.astype(np.float64)


def _numbers(column: FieldColumn) -> tuple[Floats, Floats]:
    return column.true.astype(np.float64), column.predicted.astype(np.float64)


def full_score(column: FieldColumn) -> RowValues:
    """Whether the score is 1, the most there is."""
    return _share(score(column)[0] >= 1), column.has_truth


# The metric that decides whether a row is right, by kind: the category, the price within 10 %, the exact text, the full score.
RIGHT: dict[str, Callable[[FieldColumn], RowValues]] = {
    "category": accuracy, "number": partial(within, band=10), "text": exact, "score": full_score
}  # fmt: skip


def right(column: FieldColumn) -> Bools:
    """Which rows of a field are right."""
    return np.asarray(RIGHT[column.kind](column)[0] > 0)
