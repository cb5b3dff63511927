"""Turn any catalogue into training data.

SOURCE is a CSV, TSV, JSON, JSONL or Parquet file, a folder of photos (category/photo.jpg) or of tables, chat-style JSONL,
a saved `datasets` folder or the id of a hub dataset. Photos may be bytes, paths or URLs.

    python -m data.ingest photos/ --output runs/photos
    python -m data.ingest products.csv --output runs/shop --config fields.yaml
    python -m data.ingest shop.csv --output runs/shop --field title=Name --field price=Price:number:EUR --image Photo
    python -m data.ingest shop.csv --dry-run                     # a table of what becomes of 20 rows, and the YAML for it
    python -m data.ingest DBQ/Burberry.Product.prices.United.States --preset burberry --output runs/burberry

A run that is stopped at any moment continues when it is started again: unfinished work is in .NAME.ingest next to OUTPUT.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli
from mlx_phi3v.text import printable

from .ingest_config import IngestConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(IngestConfig, "python -m data.ingest", __doc__ or "", argv)
    if settings.dry_run is not None:
        return _dry_run(settings)
    from .long_rows import LongRowCounter  # with all that reads tables and photos: --help and a wrong flag need none of it
    from .pipeline import ingest
    from .summary import summary

    counter = LongRowCounter(settings) if settings.model else None  # a wrong model is told before the work
    info = ingest(settings)
    long = counter.count() if counter else None
    if settings.json:
        print(json.dumps(info | ({"long_rows": dataclasses.asdict(long)} if long else {})))
    else:
        lines = [summary(info, settings.output), *([counter.line(long)] if counter else [])]
        print(printable("\n".join(lines), lines=True))
    return 0


def _dry_run(settings: IngestConfig) -> int:
    """Show what becomes of the first rows; status 1 where none can be used."""
    from rich.console import Console

    from .dry_run import dry_run
    from .dry_run_table import show_dry_run

    found = dry_run(settings)
    if settings.json:
        print(json.dumps(found.to_dict(), default=str))
    else:
        show_dry_run(found, Console())
    return int(found.rejected.total() == len(found.rows))


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
