"""What happened to the values of rows that were accepted, counted chunk by chunk: unread prices, empty words, currencies."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_phi3v.errors import UserError
from mlx_phi3v.text import printable

from .currencies import find_sign
from .mapping import FieldMapping

_SHOWN = 3


class Note(NamedTuple):
    """One thing to count: `kind` is unread, rounded, empty, currency, question or near_name; `detail` a reason or word."""

    field: str
    kind: str
    detail: str
    value: str = ""


@dataclass
class Notes:
    """The counts of some rows. `unread` lists the values that are missing because they could not be read.

    counts: (field, kind, detail) -> rows. read: number field -> rows with a value. lost: rows that have fewer than half
    of their fields, and the number of the first.
    """

    counts: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    unread: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    read: Counter[str] = dataclasses.field(default_factory=Counter)
    lost: int = 0
    first_lost: int | None = None

    def add(self, mapping: FieldMapping, row: Mapping[str, Any], number: int, place: str, notes: Iterable[Note]) -> None:
        """Count one accepted row, and what was noted while it was checked."""
        for note in notes:
            self.counts[note.field, note.kind, note.detail] += 1
            if note.kind == "unread":
                self.unread.append(
                    {"row": number, "field": note.field, "reason": note.detail, "value": note.value, "place": place}
                )
        present = 0
        for field in mapping.fields:
            if row[field.name] is not None:
                present += 1
                if field.kind == "number":
                    self.read[field.name] += 1
        if 2 * present < len(mapping.fields):
            self.lost += 1
            self.first_lost = number if self.first_lost is None else self.first_lost

    def merge(self, other: Notes) -> None:
        """Add the counts of later rows; the values listed are not joined."""
        self.counts.update(other.counts)
        self.read.update(other.read)
        self.lost += other.lost
        self.first_lost = other.first_lost if self.first_lost is None else self.first_lost

    def of(self, kind: str) -> dict[str, dict[str, int]]:
        """field -> detail -> rows, of one kind, the most frequent first."""
        found: dict[str, dict[str, int]] = {}
        for (field, noted, detail), count in self.counts.most_common():
            if noted == kind:
                found.setdefault(field, {})[detail] = count
        return found

    def to_bytes(self) -> bytes:
        """The JSON form."""
        counts = [[*key, count] for key, count in self.counts.items()]
        kept = {"read": dict(self.read), "lost": self.lost, "first_lost": self.first_lost, "unread": self.unread}
        return json.dumps({"counts": counts} | kept).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Notes:
        """The inverse of `to_bytes`."""
        stored = json.loads(data)
        counts = Counter({(field, kind, detail): count for field, kind, detail, count in stored["counts"]})
        return cls(counts, stored["unread"], Counter(stored["read"]), stored["lost"], stored["first_lost"])

    def report(self) -> dict[str, Any]:
        """The entry "values" of `catalogue.json`."""
        kinds = {"unread": "unread", "rounded": "rounded", "read_as_missing": "empty", "currencies": "currency",
                 "questions": "question",
                 "photos_under_near_names": "near_name"}  # fmt: skip
        found: dict[str, Any] = {name: self.of(kind) for name, kind in kinds.items()}
        if self.lost:
            found["rows_without_most_fields"] = self.lost
            found["first_without_most_fields"] = self.first_lost
        return {name: value for name, value in found.items() if value}


def require_usable(notes: Notes, mapping: FieldMapping, source: str) -> None:
    """Raise UserError where prices are of several currencies and none is named, or where no value of a field can be read."""
    require_one_currency(notes, mapping, source)
    for field in mapping.fields:
        reasons = notes.of("unread").get(field.name, {})
        if reasons and not notes.read[field.name]:
            either = "price_ambiguous" in reasons
            mend = (
                "1.299 may be one or a thousand: name the currency with --currency, or the mark in YAML (decimal: ',')"
                if either
                else "correct its column, currency or decimal mark"
            )
            raise UserError(
                f"no {field.name} of {source} can be read: {_counted(reasons)}; {mend}, "
                "or leave the field out by naming the others with --field"
            )


def require_one_currency(notes: Notes, mapping: FieldMapping, source: str) -> None:
    """Raise UserError, with the counts, where prices of one field are of several currencies and none is named."""
    currencies = notes.of("currency")
    for field in mapping.fields:
        found = currencies.get(field.name, {})
        meant = [sign.codes for name in found if (sign := find_sign(name)) is not None]
        if len(found) > 1 and not (len(meant) == len(found) and frozenset.intersection(*meant)):
            raise UserError(
                f"{field.name} of {source} holds several currencies: {_counted(found)}; name one with --currency (prices in "
                "another are then missing), or give --currency-rates FILE with what one unit of each is worth in it"
            )


def _counted(counts: Mapping[str, int]) -> str:
    listed = [f"{printable(name)} {count:,}" for name, count in list(counts.items())[: 2 * _SHOWN]]
    return ", ".join(listed) + (" and others" if len(counts) > 2 * _SHOWN else "")


def value_lines(report: Mapping[str, Any], kept: int) -> Iterator[str]:
    """The lines of a summary about values; `report` is the entry "values" of `catalogue.json`, `kept` the rows accepted."""
    for field, reasons in report.get("unread", {}).items():
        count = sum(reasons.values())
        most = "warning: " if 2 * count > kept else ""
        yield f"{most}{count} values of {field} could not be read and are missing, see unread.csv: {_counted(reasons)}"
    for field, found in report.get("rounded", {}).items():
        yield (
            f"warning: {sum(found.values())} values of {field} are written like 1.99E+02, which may hide cents, and read "
            "so; format the column as plain numbers and export it again"
        )
    words = [f"{field} {_counted(found)}" for field, found in report.get("read_as_missing", {}).items()]
    if words:
        yield f"read as missing: {'; '.join(words)} (--no-empty-words keeps them)"
    for found in report.get("questions", {}).values():
        yield from _question_lines(found)
    for found in report.get("photos_under_near_names", {}).values():
        yield f"{sum(found.values())} photos were found under names that differ in case, Unicode form or suffix alone"
    if lost := report.get("rows_without_most_fields"):
        first = report["first_without_most_fields"]
        yield (
            f"warning: {lost} of {kept} rows have a value for fewer than half of their fields, the first is row {first}; such "
            "answers teach little, so look which columns are blank there"
        )


def _question_lines(found: Mapping[str, int]) -> Sequence[str]:
    lines = []
    if count := found.get("other_question"):
        lines.append(
            f"other_question ({count}): these rows keep their own question; give --prompt to train all rows on one question"
        )
    if count := found.get("several_turns"):
        lines.append(f"several_turns ({count}): every answer of these conversations is trained")
    return lines
