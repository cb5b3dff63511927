"""Hold the backends against recorded outputs of the published code, or against each other."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m eval.parity`; its exit status."""
    from .__main__ import main as command

    return command(argv)
