"""Which rows belong together: photos of one product are no independent trials, so a comparison counts products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_phi3v.catalogue_columns import PRODUCT
from mlx_phi3v.errors import UserError

from ..runs.columns import FieldColumn, Ints, RunColumns
from ..runs.run import Run
from .statistics.groups import number, within

__all__ = ["NONE", "Products", "find_products", "number", "within"]

NONE = "none"


@dataclass(frozen=True)
class Products:
    """The products of the rows compared. column: what rows of one product share; None: every row counts by itself.

    recorded: whether the runs say which product a row shows. clusters: each row's product, from 0 [n]; None where
    each row has a product of its own.
    """

    column: str | None
    recorded: bool
    rows: int
    products: int
    largest: int  # rows of one product
    clusters: Ints | None = field(repr=False, compare=False, metadata={"json": False})

    def count(self) -> str:
        """ "300 rows of 100 products"; "300 rows" where each counts by itself."""
        if self.clusters is None:
            return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}"
        what = "products" if self.column == PRODUCT else f"values of {self.column}"
        return f"{self.rows:,} rows of {self.products:,} {what}"

    def sentence(self) -> str:
        """How rows are counted."""
        if self.clusters is not None:
            what = "product" if self.column == PRODUCT else self.column
            return f"{self.count()} (at most {self.largest:,} each): rows of one {what} count as one that moves together."
        if self.column is None:
            why = "" if self.recorded else " (the runs record no products; --cluster COLUMN groups them)"
            return f"Every row counts by itself{why}."
        return f"No two rows share a {'product' if self.column == PRODUCT else self.column}."


def find_products(
    ids: Sequence[str], sides: Sequence[tuple[Run, RunColumns, Ints]], fields: Mapping[str, FieldColumn], column: str | None
) -> Products:
    """The products of joined rows.

    Args:
        ids: of the joined rows [n].
        sides: runs with their columns and where the joined rows are in them [n].
        fields: the joined columns of one run.
        column: what rows of one product share: None for the product that the runs recorded, "none" for nothing, a field of
            the task, or a column of the catalogue.

    Raises UserError where a column is asked for that neither the runs nor their catalogue has.
    """
    values: list[Any] = [None] * len(ids)
    for _, columns, places in sides:
        values = [known if known is not None else columns.products[at] for known, at in zip(values, places.tolist())]
    recorded = any(value is not None for value in values)
    if column is None and recorded:
        _check_alike(ids, sides)
    if column == NONE or (column is None and not recorded):
        return Products(None, recorded, len(ids), len(ids), min(1, len(ids)), None)
    if column is not None and column in fields:
        values = [None if value != value else value for value in fields[column].true.tolist()]
    elif column is not None and not (column == PRODUCT and recorded):
        values = _of_catalogue(ids, [run for run, _, _ in sides], column)
    clusters, largest = number(values)
    products = int(clusters.max(initial=-1)) + 1
    shared = clusters if products < len(ids) else None
    return Products(column or PRODUCT, recorded, len(ids), products, largest, shared)


def _check_alike(ids: Sequence[str], sides: Sequence[tuple[Run, RunColumns, Ints]]) -> None:
    """Raises UserError where two runs group the rows to other products."""
    first, *others = sides
    for side in others:
        left, right = ([columns.products[at] for at in places.tolist()] for _, columns, places in (first, side))
        known = [i for i in range(len(ids)) if left[i] is not None and right[i] is not None]
        groups = [number([values[i] for i in known])[0] for values in (left, right)]
        apart = [i for i, x, y in zip(known, *groups) if x != y]
        if apart:
            raise UserError(
                f"{first[0].path} and {side[0].path} record other products for the row {ids[apart[0]]!r}: "
                f"{left[apart[0]]!r} and {right[apart[0]]!r}; "
                "give --cluster COLUMN for what rows of one product share, or --cluster none"
            )


def _of_catalogue(ids: Sequence[str], runs: Sequence[Run], column: str) -> list[Any]:
    """A column's values of these rows, from the catalogue that one of the runs was made of."""
    from mlx_phi3v.catalogue import Catalogue  # reads Arrow files: only where it is asked for

    why = "the runs do not say where their catalogue is"
    for run in runs:
        place, wanted = run.manifest.get("catalogue"), (run.manifest.get("hashes") or {}).get("catalogue")
        if not isinstance(place, str) or not Path(place).is_dir():
            why = f"their catalogue {place} is not on this machine" if place else why
            continue
        catalogue = Catalogue(place)
        if wanted is None or catalogue.fingerprint != wanted:
            why = f"{place} holds another catalogue by now"
            continue
        split = catalogue.split(str(run.manifest.get("split") or "test"))
        if column not in split.columns:
            raise UserError(f"--cluster {column}: {place} has no such column; it has {', '.join(split.columns)}")
        found = {str(row["id"]): row[column] for rows in split.batches(["id", column]) for row in rows}
        return [None if (value := found.get(identity)) is None else str(value) for identity in ids]
    raise UserError(f"--cluster {column}: {why}; give a field of the task, or none")
