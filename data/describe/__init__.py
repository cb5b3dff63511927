"""A catalogue -> figures, terminal report and page."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m data.describe`; its exit status."""
    from .__main__ import main as command

    return command(argv)
