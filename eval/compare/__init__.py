"""Two runs -> paired measures, statistics, verdict, and why answers diverge."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m eval.compare`; its exit status."""
    from .__main__ import main as command

    return command(argv)
