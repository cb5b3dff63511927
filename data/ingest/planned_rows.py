"""The rows of a source as they are checked: joined, filled from their product's first row, filtered, one a photo if wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .columns import is_blank
from .join import JoinedTable
from .mapping import FieldMapping
from .paths_in_row import column_of, resolve
from .product_groups import Group, Groups
from .row import RowError
from .row_references import row_references
from .sources import RawRow, Source


class GroupFiller:
    """Gives each row its product's name, and the blanks of a continuation row the values of the product's first row."""

    def __init__(self, mapping: FieldMapping) -> None:
        assert mapping.group is not None
        self.group, self.key = mapping.group, mapping.group_key
        self.continued = mapping.group_continued
        self._before: str | None = None
        alone = [*(item.column for item in mapping.where), *([mapping.code] if mapping.code else [])]
        # The columns of one field belong together: another variant's sale price must not hide this one's own price.
        self.filled = tuple(dict.fromkeys([*(item.columns for item in mapping.fields), *((column,) for column in alone)]))
        self._groups = Groups()

    def fill(self, values: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """(the row, filled, its product); products come in any order, a product's own row before what continues it."""
        named = resolve(values, self.group)
        own = [str(key).strip()] if self.key and not is_blank(key := resolve(values, self.key)) else []
        name = str(named).strip() if not is_blank(named) else own[0] if own else None
        if self.key and not is_blank(number := next((values[key] for key in ("ID", "id") if key in values), None)):
            own.append(f"id:{number}")  # WooCommerce names the parent so where it has no SKU
            name = name or own[-1]
        name = self._before if name is None and self.continued else name
        if name is None:
            return values, None
        self._before = name
        group = self._groups.get(name) or self._groups.add(name)
        if is_blank(named):
            for alias in own:
                self._groups.add_alias(alias, group)
        return self._filled(values, group), group.name

    def _filled(self, values: dict[str, Any], group: Group) -> dict[str, Any]:
        filled = dict(values)
        for paths in self.filled:
            columns = [column_of(path, values.keys()) or path for path in paths]
            if any(not is_blank(values.get(column)) for column in columns):
                group.first.setdefault(paths, {column: values.get(column) for column in columns})
            else:
                filled |= group.first.get(paths, {})
        return filled


@dataclass(frozen=True)
class PlannedRows:
    """Reads a source's rows in their order, the same ones at every reading. `limit`: only so many of the source's rows."""

    source: Source
    mapping: FieldMapping
    joined: JoinedTable | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[RawRow]:
        rows = itertools.islice(self.source.rows(), self.limit)
        if self.joined or self.mapping.group or self.mapping.where or self.mapping.photos == "rows":
            return self._shaped(rows)
        return rows

    def _shaped(self, rows: Iterator[RawRow]) -> Iterator[RawRow]:
        filler = GroupFiller(self.mapping) if self.mapping.group else None
        numbers = itertools.count(1)
        for row in rows:
            for shaped in self._shape(row, filler):
                yield shaped._replace(number=next(numbers))

    def _shape(self, row: RawRow, filler: GroupFiller | None) -> Iterator[RawRow]:
        values = row.values
        if isinstance(values, RowError):
            yield row
            return
        if self.joined:
            values = self.joined.beside(values)
        group = None
        if filler:
            values, group = filler.fill(values)
        row = row._replace(values=values, group=group)
        failed = next((item for item in self.mapping.where if not item.holds(values)), None)
        if failed is not None:
            yield row._replace(values=RowError("left_out_by_where", f"{failed.column}: {resolve(values, failed.column)}"))
        elif self.mapping.photos == "rows":
            yield from _row_a_photo(self.mapping, row, values)
        else:
            yield row


def _row_a_photo(mapping: FieldMapping, row: RawRow, values: Mapping[str, Any]) -> Iterator[RawRow]:
    """A row for each photo that the row names, all of one product; the row itself where it names none."""
    try:
        count = len(row_references(mapping, values))
    except MemoryError:
        raise
    except Exception:  # the check of the row rejects it, with the reason
        count = 0
    group = row.group
    if count > 1 and group is None:
        group = f"row {row.place}"
    yield from (row._replace(group=group, photo=photo) for photo in range(count)) if count else [row]
