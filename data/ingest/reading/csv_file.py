"""The text of a CSV file: its encoding, its first lines and the marks in its bytes."""

from __future__ import annotations

import io
from pathlib import Path

from mlx_phi3v.errors import UserError

from ..row import whole
from .byte_streams import open_bytes, read_line
from .csv_dialect import Marks
from .encodings import find_encoding
from .options import Reading

_SAMPLE_CHARACTERS = 1 << 20
_LONGEST_SAMPLED = 8 << 20  # characters of a line: delimiter and quotes are sought in it several times
QUICK_BYTES = 8 << 20


class CsvFile:
    """A CSV file that is opened as text. Raises UserError where its encoding cannot be known or is not as said."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self.notes: list[str] = []
        self._most = QUICK_BYTES if reading.quick else None
        with whole(path):
            self.encoding, note = find_encoding(path, reading.encoding, self._most)
        self.is_mixed = note == "mixed"  # some lines are not in the encoding
        self.errors = "surrogateescape" if self.is_mixed else "strict"
        if note:
            says = f"lines of {path.name} that are not UTF-8 are rejected" if self.is_mixed else note
            self.notes.append(f"{says}; --encoding says otherwise")

    def open(self, skipped: int = 0) -> io.TextIOWrapper:
        """Open the file for reading behind so many lines."""
        file = io.TextIOWrapper(open_bytes(self.path), encoding=self.encoding, errors=self.errors, newline="")
        for _ in range(skipped):
            read_line(file)
        return file

    def sample(self, header_line: int = 1) -> tuple[str, bool]:
        """(the first lines, whether the file goes on behind them). A line above `header_line` that is very long is a blank one.

        Raises UserError where the first line, or `header_line`, is too long to name columns.
        """
        pieces: list[str] = []
        size, line = 0, ""
        with whole(self.path), self.open() as file:
            try:
                while size < _SAMPLE_CHARACTERS:
                    line, is_whole = read_line(file, _LONGEST_SAMPLED)
                    if not line or (not is_whole and len(pieces) >= header_line):
                        break
                    if not is_whole and len(pieces) + 1 == header_line:
                        raise UserError(
                            f"{self.path}: line {header_line} has more than {_LONGEST_SAMPLED:,} characters; it must name the "
                            "columns, or give --header-line"
                        )
                    pieces.append(line if is_whole else "\n")
                    size += len(line)
            except UnicodeError:
                if not pieces:
                    raise self.wrong_encoding("its first line") from None
        return "".join(pieces), bool(line)

    def wrong_encoding(self, place: str) -> UserError:
        """The sentence for a file that is not in its encoding."""
        return UserError(f"{self.path} is not {self.encoding} text ({place}); give its encoding, such as --encoding cp1252")

    def marks(self, delimiter: str) -> tuple[Marks, int]:
        """(what the quoting is found by, the number of lines): counted in the bytes, which takes no time."""
        most = self._most
        spaced = [f'{delimiter}{space}"'.encode() for space in (" ", "\t") if space != delimiter]
        wide = self.encoding.startswith(("utf-16", "utf-32"))
        counts = [0] * 6
        with whole(self.path), open_bytes(self.path) as file:
            done = 0
            while (most is None or done < most) and (block := file.read(1 << 20)):
                block += read_line(file)[0]
                done += len(block)
                quotes, slashes = block.count(b'"'), block.count(b"\\")
                counts[5] += block.count(b"\n") or block.count(b"\r")
                counts[0] += quotes
                counts[1] += slashes
                counts[2] += block.count(b'\\"') if slashes else 0
                counts[3] += block.count(b"\\\\") if slashes else 0
                counts[4] += sum(map(block.count, spaced)) if quotes else 0
        if wide:  # a mark is two bytes there
            counts[4] = counts[0]
        if most is not None and done >= most and not wide:
            counts[5] = counts[5] * self.path.stat().st_size // done
        return Marks(*counts[:5]), counts[5]
