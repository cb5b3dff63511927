"""Name text files with trailing white space, a conflict marker, Windows line ends or no last newline.

python scripts/hygiene.py FILE ...      status 1 where a file has one of these
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MARKER = re.compile(rb"(<{7}|>{7}) |={7}$")


def faults(data: bytes) -> Iterator[str]:
    """Each fault with its line number; `data` are the bytes of a text file.

    >>> list(faults(b"one \\ntwo"))
    ['1: trailing white space', '2: no newline at the end']
    """
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\r"):
            yield f"{number}: Windows line end"
        elif line != line.rstrip(b" \t"):
            yield f"{number}: trailing white space"
        if MARKER.match(line):
            yield f"{number}: conflict marker"
    if lines[-1]:
        yield f"{len(lines)}: no newline at the end"


def main(argv: Sequence[str]) -> int:
    """Print every fault as FILE:LINE: FAULT."""
    found = [f"{name}:{fault}" for name in argv for fault in faults(Path(name).read_bytes())]
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
