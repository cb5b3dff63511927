"""A catalogue as Parquet for the hub, with its photos inside, and the same catalogue again."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m data.export`; its exit status."""
    from .__main__ import main as command

    return command(argv)
