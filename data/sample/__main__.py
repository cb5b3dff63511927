"""Draw a catalogue of a made-up brand.

    python -m data.sample --output runs/catalogue
    python -m data.sample --output runs/catalogue --products 5000 --seed 1

Same brand, products and seed give the same bytes and the same fingerprint, with any number of processes. (Another
processor family or OpenCV version may round a pixel the other way: rows stay the same, picture hashes may not.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .settings import SampleConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(SampleConfig, "python -m data.sample", __doc__ or "", argv)
    from .draw_catalogue import sample  # with what draws: --help and a wrong flag need none of it

    summary = sample(settings)
    if settings.json:
        print(json.dumps(summary))
    else:
        rows = ", ".join(f"{count:,} {name}" for name, count in summary["rows"].items())
        print(f"{summary['output']}: {rows} in {summary['seconds']} s ({summary['products_per_second']} products/s)")
        print(f"fingerprint {summary['fingerprint']}")
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
