"""A model's answers for every row of a split, as a run."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m eval.predict`; its exit status."""
    from .__main__ import main as command

    return command(argv)
