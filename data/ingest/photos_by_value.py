"""The photos of a table whose columns do not say so by their names: by the values there, or named after a value of the row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note

from .ingest_config import IngestConfig
from .looks_like_pictures import Shares, picture_columns, sure_columns
from .photos_by_name import photo_pattern
from .picture_references import is_base_url
from .row import Row
from .source_tables import RawRow, first_rows


def _given_folder(settings: IngestConfig) -> Path | None:
    return Path(settings.image_root) if settings.image_root and not is_base_url(settings.image_root) else None


def _look_like_pictures(settings: IngestConfig, rows: Iterable[RawRow]) -> dict[str, Shares]:
    return picture_columns(_values_and_roots(rows), _given_folder(settings))


def _values_and_roots(rows: Iterable[RawRow]) -> Iterator[tuple[Row, str | None]]:
    return ((row.values, row.root) for row in first_rows(rows))


def photos_by_value(settings: IngestConfig, rows: Iterable[RawRow], columns: Collection[str]) -> dict[str, Any]:
    """The keys for the one column, or the one series of columns, whose values are pictures or name the files of some.

    None where there is a choice.
    """
    shares = _look_like_pictures(settings, rows)
    found = sure_columns(shares, columns)
    if not found and not shares and (pattern := photo_pattern(_values_and_roots(rows), _given_folder(settings))):
        note(f"the photos are the files {pattern}; --image says otherwise")
        return {"image": pattern}
    if not found:
        return {}
    names = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
    note(f"the photos are taken from {names}, by the values there; --image says otherwise")
    return {"image": {"columns": found}} | ({} if settings.photos else {"photos": "first"})


def no_pictures(settings: IngestConfig, rows: Iterable[RawRow]) -> UserError:
    """The error for a table without a column of pictures, with those that look like one."""
    found = list(_look_like_pictures(settings, rows))
    names = ", ".join(found[:3])
    alike = f" ({names} looks like one)" if len(found) == 1 else f" ({names} look like it)"
    return UserError(
        f"no column of {settings.source} is known to hold pictures; give --image COLUMN{alike if found else ''}, "
        "or --no-images to learn from text alone"
    )
