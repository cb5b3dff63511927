"""What the first rows show of a source's values, before photos are fetched."""

from __future__ import annotations

import itertools

from .check_row import RowChecks, checked_fields
from .notes import Note, Notes, require_one_currency, require_usable
from .plan import IngestPlan

_LOOKED_AT = 1000  # rows


def look_ahead(plan: IngestPlan, checks: RowChecks) -> None:
    """Raise UserError where the first rows show that prices are of several currencies, or that none can be read."""
    notes = Notes()
    rows = unread = 0
    for row in itertools.islice(plan.rows, _LOOKED_AT):
        rows += 1
        if not isinstance(row.values, dict):
            continue
        found: list[Note] = []
        try:
            checked = checked_fields(checks, row.values, found)
            notes.read.update(field.name for field in plan.mapping.fields if checked[field.name] is not None)
        except MemoryError:
            raise
        except Exception:  # the check of the row says what is wrong
            pass
        notes.counts.update((note.field, note.kind, note.detail) for note in found)
        unread += any(note.kind == "unread" for note in found)
    require_one_currency(notes, plan.mapping, plan.source.name)
    if rows < _LOOKED_AT or 2 * unread > rows:  # of a column that is mostly blank the first rows say little
        require_usable(notes, plan.mapping, plan.source.name)
