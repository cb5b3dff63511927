"""Write a catalogue as Parquet with its photos inside, as `datasets.load_dataset` and the hub read it, and upload it.

    python -m data.export shop --output shop-parquet
    python -m data.export shop --to-hub OWNER/shop
    python -m data.ingest OWNER/shop --output shop        # the same catalogue again, row by row

A repository that is made is private without --public. An upload that was killed goes on when the command is run again. The
token is that of `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import scratch_folder
from mlx_phi3v.progress import note, result, say

from .export_record import ExportRecord, read_record
from .write_export import write_export


@dataclass(frozen=True)
class ExportDataConfig:
    """Settings of an export."""

    catalogue: Path = option(help="folder of the catalogue", positional=True)
    output: Path | None = option(None, help="folder to write; it must not exist", writes="new")
    to_hub: str | None = option(None, help="upload it to this repository of the hub, OWNER/NAME; made where it is not there")
    public: bool = option(False, help="let everyone see a repository that is made")
    revision: str | None = option(None, help="branch to upload to, made where it is not there; by default main")
    license: str | None = option(None, help="licence for the card, as the hub names it: cc-by-4.0, mit, other, ...")
    shard_mb: int = option(500, help="most megabytes of photos in one file", at_least=1, at_most=100_000)
    json: bool = option(False, help="progress and the summary as JSON lines on stdout")

    def check_values(self, where: str) -> None:
        """Raise UserError where there is nowhere to write."""
        if self.output is None and self.to_hub is None:
            raise UserError("give --output FOLDER, --to-hub OWNER/NAME, or both")
        if self.to_hub is None and (self.public or self.revision):
            raise UserError("--public and --revision are of --to-hub OWNER/NAME; give that too, or leave them out")


def export_data(config: ExportDataConfig) -> dict[str, Any]:
    """Write the catalogue as Parquet, and upload it where that is asked for; a summary.

    Without --output the files are in TMPDIR until they are uploaded. They are the same bytes each time, so that an upload goes
    on. Raises UserError where the catalogue is corrupt, a photo is missing, or the hub does not take it.
    """
    from mlx_phi3v.hub.upload import Destination, check_access, upload

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


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    export_data(parse(ExportDataConfig, "python -m data.export", __doc__ or "", argv))
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
