"""A file's bytes, unpacked where they are compressed (.gz, .bz2, .xz, .zst), with a limit against bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any, AnyStr, cast

from mlx_phi3v.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
FREE_BYTES = 1 << 30  # this much may always come out of a compressed file
MOST_RATIO = 1000  # beyond it, bytes out for each byte in; gzip's own limit is 1032


MAX_LINE = 256_000_000  # bytes or characters of a line: a photo of 50 MB in base64 fits several times


def read_line(file: IO[AnyStr], most: int = MAX_LINE) -> tuple[AnyStr, bool]:
    """(the next line, whether it is whole): of one that is longer than `most` no more is held, and the rest is passed over."""
    line = file.readline(most)
    if len(line) < most or _ends(line):
        return line, True
    while (rest := file.readline(1 << 20)) and not _ends(rest):
        pass
    return line, False


def _ends(line: str | bytes) -> bool:
    return line[-1:] in ("\n", "\r", b"\n", b"\r")


def compression(path: Path) -> str:
    """The suffix of the compression that a file has by its first bytes, "" for none."""
    with open(path, "rb") as file:
        start = file.read(6)
    return next((suffix for magic, suffix in _MAGIC.items() if start.startswith(magic)), "")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked. Raises UserError where a package is missing, OSError where it cannot be read."""
    kind = compression(path)
    if not kind:
        return open(path, "rb")
    most = FREE_BYTES + MOST_RATIO * path.stat().st_size
    return io.BufferedReader(_Bounded(path, _unpacked(path, kind), most), 1 << 18)


def _unpacked(path: Path, kind: str) -> IO[bytes]:
    if kind == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if kind == ".bz2":
        return bz2.open(path, "rb")
    if kind == ".xz":
        return lzma.open(path, "rb")
    try:
        import zstandard
    except ImportError:
        raise missing_package(path, "zstandard") from None
    return io.BufferedReader(_Zstandard(path, zstandard.ZstdDecompressor))


class WrappedFile(io.RawIOBase):
    """Bytes made of another file's, which is closed with it."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    def readable(self) -> bool:
        """As a file."""
        return True

    def close(self) -> None:
        """Close both."""
        if not self.closed:
            self._file.close()
        super().close()


class _Zstandard(WrappedFile):
    """The frames of a .zst file; one that is cut is an error, which zstandard's own reader lets pass."""

    def __init__(self, path: Path, decompressor: Any) -> None:
        super().__init__(open(path, "rb"))  # noqa: SIM115
        self._new = decompressor
        self._frame: Any = None
        self._left = b""

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            data = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = data or self._file.read(4096)  # of little a bomb makes little
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("its last frame is not whole")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._new().decompressobj()
            try:
                self._left = self._frame.decompress(data)
            except Exception as error:  # ZstdError, which only the package knows
                raise EOFError(str(error)) from None
        piece, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def missing_package(path: Path, package: str) -> UserError:
    """The sentence where the extra `ingest` lacks a package that this kind of file needs."""
    return UserError(f"{path} needs the package {package}; pip install {package}, or install the extra ingest")


class _Bounded(WrappedFile):
    """Reads on, and refuses to go on where far more comes out than a table of that size can hold."""

    def __init__(self, path: Path, file: IO[bytes], most: int) -> None:
        super().__init__(file)
        self._path, self._left = path, most

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._left -= len(data)
        if self._left < 0:
            raise UserError(f"{self._path} unpacks to more than {MOST_RATIO} times its size; it is refused, unpack it yourself")
        return len(data)
