"""The settings of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError


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
