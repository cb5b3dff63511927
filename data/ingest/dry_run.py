"""The first rows of a source as an ingest would take them, without a download and without writing anything."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_phi3v.config import VisionArgs
from mlx_phi3v.crops import crop_grid_of, image_token_count
from mlx_phi3v.prompts import PromptProcessor

from .check_row import RejectedError, RowChecks, check_fields, photos_of, photos_wanted, references_of
from .ingest_config import IngestConfig
from .mapping_yaml import mapping_yaml
from .paths_in_row import column_of, leaf_paths, resolve
from .picture_references import as_url
from .plan import IngestPlan, make_plan
from .row import RowError
from .row_checks import row_checks
from .sources import RawRow

_NUM_CROPS = 16  # of the published model's processor
_CHARACTERS = 3.0  # of a token of text, about, where no tokenizer counts them


@dataclass(frozen=True)
class TriedRow:
    """A row of a dry run. photo_tokens is None where photos are not at hand; rejected is the reason, if there is one."""

    row: int
    place: str
    fields: Mapping[str, str | float | None]
    answer: str
    photos: tuple[str, ...]
    text_tokens: int
    photo_tokens: int | None
    rejected: str | None = None
    value: str = ""


@dataclass(frozen=True)
class DryRun:
    """What a dry run found. columns: of each field; left_over: columns that nothing uses, with an example."""

    source: str
    export: str | None
    columns: Mapping[str, Sequence[str]]
    images: Sequence[str]
    rows: Sequence[TriedRow]
    left_over: Mapping[str, str]
    counted: bool  # text tokens are a tokenizer's, not an estimate
    yaml: str

    @property
    def rejected(self) -> Counter[str]:
        """Reason -> rows."""
        return Counter(row.rejected for row in self.rows if row.rejected)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        counts = {"read": len(self.rows), "accepted": len(self.rows) - self.rejected.total(), "rejected": dict(self.rejected)}
        return asdict(self) | {"event": "dry_run", "counts": counts}


def dry_run(settings: IngestConfig) -> DryRun:
    """Try the first `settings.dry_run` rows. Raises UserError as an ingest would."""
    plan = make_plan(settings)
    checks = row_checks(settings, plan, Path("."))
    prompts = PromptProcessor(settings.model) if settings.model else None
    raw = list(itertools.islice(plan.rows, settings.dry_run))
    return DryRun(
        settings.source,
        plan.export,
        {field.name: field.columns for field in plan.mapping.fields},
        plan.mapping.images,
        [_try(row, checks, plan, prompts) for row in raw],
        _left_over(raw, plan),
        prompts is not None,
        mapping_yaml(plan.mapping, settings),
    )


def _try(row: RawRow, checks: RowChecks, plan: IngestPlan, prompts: PromptProcessor | None) -> TriedRow:
    fields: dict[str, Any] = {field.name: None for field in plan.mapping.fields}
    photos: tuple[str, ...] = ()
    tokens: int | None = None
    rejected = value = None
    try:
        checked = check_fields(checks, row)
        fields = {name: checked[name] for name in fields}
        references = references_of(checks, row)
        photos = tuple(_shown(item) for item in references[: photos_wanted(checks, row)])
        tokens = _photo_tokens(checks, row, references)
    except RejectedError as error:
        rejected, value = error.reason, error.value
    except MemoryError:
        raise
    except Exception as error:  # as in the check of rows: one row ends nothing
        rejected, value = "row_unreadable", f"{type(error).__name__}: {error}"
    answer = plan.task.answer(fields)
    text = _text_tokens(plan, answer, prompts)
    return TriedRow(row.number, row.place, fields, answer, photos, text, tokens, rejected, value or "")


def _photo_tokens(checks: RowChecks, row: RawRow, references: Sequence[Any]) -> int | None:
    """Tokens of a row's photos at 16 crops; None where one would have to be fetched. Raises RejectedError for a bad photo."""
    needed = references[: photos_wanted(checks, row)]
    enough = len(references) >= photos_wanted(checks, row)
    if enough and any(as_url(item) and not checks.store.is_done(str(as_url(item))) for item in needed):
        return None
    photos = photos_of(checks, row, []) if checks.mapping.images else []
    return sum(image_token_count(crop_grid_of(photo.image.size, _NUM_CROPS), VisionArgs()) for photo in photos)


def _text_tokens(plan: IngestPlan, answer: str, prompts: PromptProcessor | None) -> int:
    if prompts is None:
        return round((len(plan.task.prompt) + len(answer)) / _CHARACTERS)
    ids, _ = prompts.example(plan.task.prompt, answer, [0] * plan.mapping.photos_per_row())
    return len(ids)


def _shown(reference: Any) -> str:
    if isinstance(reference, (bytes, bytearray)):
        return f"{len(reference):,} bytes"
    return str(reference)[:200]


def _left_over(rows: Sequence[RawRow], plan: IngestPlan) -> dict[str, str]:
    """The columns that neither field, photo, code, split nor group uses -> a value of one of the rows."""
    mapping = plan.mapping
    used = {column for field in mapping.fields for column in field.columns} | set(mapping.image_columns())
    used |= {name for name in (mapping.code, mapping.split, mapping.group, mapping.group_key) if name}
    used |= {item.column for item in mapping.where}
    columns = plan.columns
    taken = {column_of(path, columns) for path in used}
    found = {name: "" for name in columns if name not in taken}
    for row in rows:
        if not isinstance(row.values, RowError):
            for name in found:
                if not found[name] and row.values.get(name) not in (None, ""):
                    found[name] = _example(row.values, name)
    return found


def _example(values: Mapping[str, Any], name: str) -> str:
    paths = leaf_paths({name: values[name]}, 1)
    value = resolve(values, paths[0]) if paths else values[name]
    return ("" if not paths or paths[0] == name else f"{paths[0]}: ") + _shown(value)
