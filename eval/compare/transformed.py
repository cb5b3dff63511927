"""What turns one run's answers into the other's, where one simple thing does: said in the first lines of a report.

Prices that are the other's times a factor or rounded, categories under other names, fields that changed places, answers or
photos of other rows, words before or behind every answer, one answer for most rows. Each is said only where many different
values agree on it, so that runs that differ by chance have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, permutations

import numpy as np

from ..runs.columns import Bools, FieldColumn, Floats, Ints
from ..runs.prediction import answer_of
from .paired_runs import PairedRuns

_LEAST_ROWS = 10
_LEAST_SHARE = 0.1  # of all rows that a change must touch
_MOST = 0.5  # of the rows that differ must be explained by one factor
_NEARLY_ALL = 0.9
_WINDOW = 0.004  # of the logarithm of prices' ratios: rounding to cents moves a price of 5 by so much
_LEAST_FACTOR = 0.01  # away from 1
_HALF_A_CENT = 0.005
_CENTS, _MARK = "one counts in cents", "one reads a mark of thousands as that of decimals"
_SLIPS = {100.0: _CENTS, 0.01: _CENTS, 1000.0: _MARK, 0.001: _MARK}
_LOOKED_AT = 300  # texts
_OF_NUMBERS = "0123456789.,"  # ends that prices share
_MOST_SHARED = 1000  # characters that answers begin with alike: to find each takes all texts once
_SHOWN = 3
_SHOWN_CHARACTERS = 40


def transformed_remarks(data: PairedRuns) -> tuple[list[str], bool]:
    """(the sentences, none for runs that differ by chance; whether B has the photos or answers of A's other rows)."""
    if len(data.join.ids) < _LEAST_ROWS:
        return [], False
    if found := list(_one_answer(data)):
        return found, False
    moved = list(_other_rows(data))
    found = [*moved, *_around_answers(data), *_swapped_fields(data)]
    for name, a in data.fields_a.items():
        b = data.fields_b.get(name)
        if b is None:
            continue
        if a.kind == "number":
            found += _prices(name, a, b)
        elif a.kind == "category":
            found += _renamed(name, a, b)
    return found, bool(moved)


def _prices(name: str, a: FieldColumn, b: FieldColumn) -> Iterator[str]:
    left, right = a.predicted.astype(float), b.predicted.astype(float)
    differ = a.parsed & b.parsed & (np.nan_to_num(left) > 0) & (np.nan_to_num(right) > 0) & (left != right)
    least = max(_LEAST_ROWS, _LEAST_SHARE * len(a.true))
    if differ.sum() < least:
        return
    left, right = left[differ], right[differ]
    for coarse, fine, x, y in (("B", "A", left, right), ("A", "B", right, left)):
        for how, rounded in (("rounded", np.round(x)), ("cut", np.floor(x)), ("rounded up", np.ceil(x))):
            for ending in (0.0, 0.99, 0.95):
                fits = np.abs(y - (rounded + ending)) < 1e-6
                if fits.mean() >= _NEARLY_ALL and len(np.unique(y)) >= _LEAST_ROWS:
                    to = f"whole units and {ending:.2f}" if ending else "whole units"
                    yield f"{coarse}'s {name} is {fine}'s {how} to {to} in {_of(fits)} rows where they differ"
                    return
    factor, fits = _common_factor(left, right)
    if (
        fits.sum() >= max(least, _MOST * len(fits))
        and len(np.unique(left[fits])) >= _LEAST_ROWS
        and abs(factor - 1) > _LEAST_FACTOR
    ):
        yield (
            f"B's {name} is A's times {factor:.4g} in {_of(fits)} rows where they differ ({len(a.true):,} in all): "
            f"{_meaning(factor)}"
        )


def _common_factor(left: Floats, right: Floats) -> tuple[float, Bools]:
    """The ratio that most rows have, and which rows [n] have it."""
    ratios = np.log(right / left)
    order = np.sort(ratios)
    counts = np.searchsorted(order, order + _WINDOW, side="right") - np.arange(len(order))
    start = int(counts.argmax())
    factor = float(np.exp(np.median(order[start : start + counts[start]])))
    factor = next((slip for slip in _SLIPS if abs(np.log(factor / slip)) < 2 * _WINDOW), factor)
    return factor, np.abs(ratios - np.log(factor)) <= _WINDOW + _HALF_A_CENT / np.minimum(left, right)


def _meaning(factor: float) -> str:
    return _SLIPS.get(factor, "another currency, tax or unit")


def _renamed(name: str, a: FieldColumn, b: FieldColumn) -> Iterator[str]:
    """Values of A in place of which B says another one, nearly always."""
    pairs: dict[str, Counter[str]] = {}
    for left, right in zip(a.predicted.tolist(), b.predicted.tolist()):
        if left is not None and right is not None:
            pairs.setdefault(left, Counter())[right] += 1
    found = []
    for left, counts in pairs.items():
        right, count = counts.most_common(1)[0]
        rows = counts.total()
        often = rows >= max(_LEAST_ROWS // 2, 0.01 * len(a.true)) and count >= _NEARLY_ALL * rows
        if right != left and often:
            found.append((count, rows, left, right))
    if not found or sum(count for count, *_ in found) < _LEAST_ROWS:
        return
    listed = ", ".join(
        f"{_quoted(r)} for A's {_quoted(x)} in {c:,} of {n:,} rows" for c, n, x, r in sorted(found, reverse=True)[:_SHOWN]
    )
    more = f" and {len(found) - _SHOWN} more values" if len(found) > _SHOWN else ""
    # A's own names in place of its others are other answers, unless the names change places.
    moved = {left for *_, left, _ in found}
    are_names = all(right not in pairs or right in moved for *_, right in found)
    yield f"B's {name} {'has other names' if are_names else 'differs from A in one way'}: {listed}{more}"


def _swapped_fields(data: PairedRuns) -> Iterator[str]:
    texts = [name for name, column in data.fields_a.items() if column.kind in ("text", "category") and name in data.fields_b]
    for name, other in permutations(texts, 2):
        own, theirs, b = data.fields_a[name].predicted, data.fields_a[other].predicted, data.fields_b[name].predicted
        fits = np.array([x is not None and x == y and x != z for x, y, z in zip(b.tolist(), theirs.tolist(), own.tolist())])
        if fits.mean() > _MOST and len(set(b[fits].tolist())) > 2:
            yield f"B's {name} is A's {other} in {_of(fits)} rows: its fields have changed places"


def _other_rows(data: PairedRuns) -> Iterator[str]:
    """Photos, else answers, that are those of A at other rows, in no order."""
    for stage, what in (("file", "was shown the photos that A was shown at"), ("text", "has the answers of A at")):
        left, right = data.digests(stage)
        count = _at_other_rows(left, right)
        if count > _MOST * len(left):
            yield f"B {what} other rows, in {count:,} of {len(left):,}: its rows or its column of photos are shuffled"
            return


def _at_other_rows(left: Ints, right: Ints) -> int:
    """How many rows of B have what A has at another row alone, where both runs have it once."""
    once_a, once_b = (values[counts == 1] for values, counts in (np.unique(side, return_counts=True) for side in (left, right)))
    shared = np.intersect1d(once_a[once_a != 0], once_b)
    return int((np.isin(right, shared) & (left != right)).sum())


def _one_answer(data: PairedRuns) -> Iterator[str]:
    shares = []
    for side in data.digests("text"):
        counts = np.unique(side[side != 0], return_counts=True)[1]
        shares.append(int(counts.max(initial=0)))
    for run, most, other in (("A", shares[0], shares[1]), ("B", shares[1], shares[0])):
        if most > _MOST * len(data.join.ids) and other < most / 2:
            yield f"{run} gives one and the same answer to {most:,} of {len(data.join.ids):,} rows"


def _around_answers(data: PairedRuns) -> Iterator[str]:
    """Words that stand before or behind nearly every answer of one run, and of the other's nowhere; answers that are empty."""
    texts = [(answer_of(a), answer_of(b)) for a, b in islice(data.rows(range(len(data.join.ids))), _LOOKED_AT)]
    sides = tuple([text for text in side if text is not None] for side in zip(*texts))
    if not all(sides):
        return
    for run, own, other in (("A", sides[0], sides[1]), ("B", sides[1], sides[0])):
        empty = sum(not text.strip() for text in own)
        if empty >= _LEAST_SHARE * len(own) and empty > 2 * sum(not text.strip() for text in other):
            yield f"{empty:,} of {len(own):,} answers of {run} are empty"
        if not any(own) or not any(other):
            continue
        before = _extra([text for text in own if text], [text for text in other if text])
        behind = _extra([text[::-1] for text in own if text], [text[::-1] for text in other if text])
        if before:
            yield f"{run}'s answers begin with {_quoted(before)}, which those of the other run do not"
        if behind:
            yield f"{run}'s answers end with {_quoted(behind[::-1])}, which those of the other run do not"


def _extra(own: list[str], other: list[str]) -> str:
    """What nearly all of `own` begin with beyond what nearly all of `other` do; "" where that is nothing."""
    usual, shared = _usual_start(own), _usual_start(other)
    if len(usual) <= len(shared) or (shared and usual.startswith(shared)) or not usual.strip(_OF_NUMBERS):
        return ""
    return usual[:place] if shared and (place := usual.find(shared)) > 0 else usual


def _usual_start(texts: list[str]) -> str:
    """The longest text that nearly all of these begin with."""
    start = ""
    while len(start) < _MOST_SHARED:
        letters = Counter(text[len(start)] for text in texts if len(text) > len(start) and text.startswith(start))
        letter, count = letters.most_common(1)[0] if letters else ("", 0)
        if count < _NEARLY_ALL * len(texts):
            return start
        start += letter
    return start


def _of(rows: Bools) -> str:
    return f"{int(rows.sum()):,} of {len(rows):,}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "...")
