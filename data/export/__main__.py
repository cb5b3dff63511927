"""Write a catalogue as Parquet with its photos inside, as `datasets.load_dataset` and the hub read it, and upload it.

    python -m data.export shop --output shop-parquet
    python -m data.export shop --to-hub OWNER/shop
    python -m data.ingest OWNER/shop --output shop        # the same catalogue again, row by row

A repository that is made is private without --public. An upload that was killed goes on when the command is run again. The
token is that of `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .settings import ExportDataConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(ExportDataConfig, "python -m data.export", __doc__ or "", argv)
    from .export import export_data  # with what reads a catalogue: --help and a wrong flag need none of it

    export_data(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
