"""Export a catalogue: write it, and upload it where that is asked for."""

from __future__ import annotations

from typing import Any

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import scratch_folder
from mlx_phi3v.hub.upload import Destination, check_access, upload
from mlx_phi3v.progress import note, result, say

from .export_record import ExportRecord, read_record
from .settings import ExportDataConfig
from .write_export import write_export


def export_data(config: ExportDataConfig) -> dict[str, Any]:
    """Write the catalogue as Parquet, and upload it where that is asked for; a summary.

    Without --output the files are in TMPDIR until they are uploaded. They are the same bytes each time, so that an upload goes
    on. Raises UserError where the catalogue is corrupt, a photo is missing, or the hub does not take it.
    """
    catalogue = Catalogue(config.catalogue)
    to = Destination(config.to_hub, config.public, config.revision) if config.to_hub else None
    if to:
        check_access(to, "--to-hub")
    folder = config.output or scratch_folder() / "export"
    record = _made_before(config, catalogue)
    if record is None:
        record = write_export(
            catalogue, folder, licence=config.license, shard_bytes=config.shard_mb * 10**6, as_json=config.json
        )
    rows = {name: split.rows for name, split in record.splits.items()}
    summary: dict[str, Any] = {"path": str(config.output) if config.output else None, "rows": rows}
    summary["fingerprint"] = record.fingerprint
    result(config.json, event="done", **summary)
    if config.output:
        say(f"wrote {config.output}: {sum(rows.values())} rows", as_json=config.json)
    made_of = None if config.output else config.catalogue
    return summary | (upload(folder, to, made_of=made_of, as_json=config.json) if to else {})


def _made_before(config: ExportDataConfig, catalogue: Catalogue) -> ExportRecord | None:
    """The record of the folder, where the same command made it before."""
    try:
        made = read_record(config.output) if config.output else None
    except UserError:
        return None
    same = made and (made.fingerprint, made.license, made.shard_bytes) == (
        catalogue.fingerprint, config.license, config.shard_mb * 10**6
    )  # fmt: skip
    if not made or not same:
        return None
    note(f"{config.output} is there already, made of the same catalogue in the same way; nothing was written")
    return made
