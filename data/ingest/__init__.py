"""A shop's table, folder, chat file or hub data set -> a catalogue."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m data.ingest`; its exit status."""
    from .__main__ import main as command

    return command(argv)
