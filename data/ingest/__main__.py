"""Turn any catalogue into training data.

SOURCE is a CSV, TSV, JSON, JSONL or Parquet file, a folder of photos (category/photo.jpg) or of tables, chat-style JSONL,
a saved `datasets` folder or the id of a hub dataset. Photos may be bytes, paths or URLs.

    python -m data.ingest photos/ --output runs/photos
    python -m data.ingest products.csv --output runs/shop --config fields.yaml
    python -m data.ingest shop.csv --output runs/shop --field title=Name --field price=Price:number:EUR --image Photo
    python -m data.ingest DBQ/Burberry.Product.prices.United.States --preset burberry --output runs/burberry

A run that is stopped at any moment continues when it is started again: unfinished work is in .NAME.ingest next to OUTPUT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli
from mlx_phi3v.text import printable

from .ingest_config import IngestConfig
from .pipeline import ingest
from .summary import summary


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(IngestConfig, "python -m data.ingest", __doc__ or "", argv)
    info = ingest(settings)
    print(json.dumps(info) if settings.json else printable(summary(info, settings.output), lines=True))
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
