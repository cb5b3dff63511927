"""What the rows of a plan are checked against."""

from __future__ import annotations

from pathlib import Path

from .check_row import RowChecks
from .download_store import DownloadStore
from .ingest_config import IngestConfig
from .photos import PhotoLimits
from .plan import IngestPlan


def row_checks(settings: IngestConfig, plan: IngestPlan, work: Path) -> RowChecks:
    """The checks of a plan; downloaded photos are below `work`, unless the settings name a folder for them."""
    return RowChecks(
        mapping=plan.mapping,
        extras=plan.extras,
        schema=plan.schema,
        limits=PhotoLimits(settings.max_pixels, settings.min_side, settings.max_bytes),
        photos_per_row=plan.mapping.photos_per_row(),
        chat=plan.chat,
        store=DownloadStore(settings.downloads or work / "downloads", work / "failures"),
        near_duplicates=settings.near_duplicates,
        rules=plan.rules,
    )
