"""The order of a run's lines: they are written as answers end, and a whole run has them in the order of its rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mlx_phi3v.files import atomic_path

from .lines import read_lines


def put_in_order(path: Path, written: Sequence[str], ids: Collection[str]) -> None:
    """Write the lines of `path` again in the order of `ids`; nothing where they are. written: the lines' own ids, in order.

    One line is in memory at a time; the file is the old one or the new one, whole, at any time.
    """
    rank = {identity: place for place, identity in enumerate(ids)}
    order = sorted(range(len(written)), key=lambda line: rank[written[line]])
    if order == list(range(len(written))):
        return
    with open(path, "rb") as old, atomic_path(path) as temporary, open(temporary, "wb") as new:
        starts = [0]
        for _, line in read_lines(old, path):
            starts.append(starts[-1] + len(line))
        for number in order:
            old.seek(starts[number])
            new.write(old.read(starts[number + 1] - starts[number]))
