"""Members of a zip archive, also those compressed with zstd, which Python before 3.14 does not read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from mlx_phi3v.documents import MOST_BYTES, plain
from mlx_phi3v.errors import UserError

_ZSTD = 93  # of APPNOTE.TXT, 4.4.5
_HEADER = struct.Struct("<4s5H3L2H")  # a local header, 4.3.7: the last two are the lengths of the name and of the extra field
_ENCRYPTED = 0x1


class ZipMembers:
    """The members of an archive by their names; of two with one name the later one, as it supersedes the first."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Raises UserError where the file is no whole archive."""
        self._path, self._file = path, file
        try:
            self._zip = zipfile.ZipFile(file)
            self.names = list(dict.fromkeys(self._zip.namelist()))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"{path} is no whole archive ({error}); it may be truncated, get it again") from None

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises UserError where it is too large, encrypted or corrupt."""
        info = self._zip.getinfo(name)
        place = f"{self._path}: {plain(name)}"
        if info.file_size > MOST_BYTES:
            raise UserError(f"{place} has {info.file_size} bytes, more than {MOST_BYTES}; it is no log of samples")
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"{place} is encrypted; unpack the archive yourself")
        try:
            data = self._zstd(info) if info.compress_type == _ZSTD else self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise UserError(f"{place} is corrupt ({error}); get the archive again") from None
        return data

    def _zstd(self, info: zipfile.ZipInfo) -> bytes:
        """A member of any number of zstd frames. Raises ValueError or zipfile.BadZipFile where it is corrupt."""
        try:
            import zstandard
        except ImportError:
            raise UserError(f"{self._path} needs the package zstandard; pip install zstandard") from None
        self._file.seek(info.header_offset)
        header = _HEADER.unpack(self._file.read(_HEADER.size))
        self._file.seek(header[-2] + header[-1], 1)
        left = self._file.read(info.compress_size)
        pieces, size = [], 0
        while left:
            frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                for start in range(0, len(left), 1 << 16):  # little at a time: a bomb is found before it is whole
                    pieces.append(frame.decompress(left[start : start + (1 << 16)]))
                    size += len(pieces[-1])
                    if size > info.file_size:
                        raise ValueError("it unpacks to more than it says")
                    if frame.eof:
                        left = frame.unused_data + left[start + (1 << 16) :]
                        break
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
            if not frame.eof:
                raise ValueError("its last frame is not whole")
        data = b"".join(pieces)
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile("its checksum is another")
        return data
