"""Zip and tar archives, unpacked into a temporary folder: tables and photos, within limits, nothing outside it."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import scratch_folder
from mlx_phi3v.text import printable

from ..row import first_line, whole
from .byte_streams import FREE_BYTES, open_bytes

MOST_RATIO = 200  # bytes out for each byte in, beyond FREE_BYTES: photos give 1, tables some 20
MOST_FILES = 5_000_000
_OFFICE = ("xl/", "mimetype", "[content_types].xml")  # what a workbook has, which is a zip too


def archive_kind(path: Path) -> str:
    """zip, tar or "" by the file's content; a compressed tar is a tar, a workbook is none."""
    if zipfile.is_zipfile(path) and _starts_with(path, b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return "" if any(name.lower().startswith(_OFFICE) for name in archive.namelist()[:20]) else "zip"
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{path} is no whole zip archive ({first_line(error)}); get it again") from None
    with whole(path), open_bytes(path) as file:
        return "tar" if file.read(263)[257:262] == b"ustar" else ""


def _starts_with(path: Path, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def unpack(path: Path, kind: str, wanted: Callable[[str], bool]) -> Path:
    """Unpack the `wanted` files of an archive -> their folder, which is removed when the process ends.

    Raises UserError for a name that leads out of the folder, a bomb, a password, a truncated archive.
    """
    folder = scratch_folder() / path.name  # the rows' places name the archive
    folder.mkdir()
    left = FREE_BYTES + MOST_RATIO * path.stat().st_size
    files = _zip_files(path) if kind == "zip" else _tar_files(path)
    for number, (name, file) in enumerate(files):
        if number >= MOST_FILES:
            raise UserError(f"{path} holds more than {MOST_FILES} files; unpack it yourself and give its folder")
        parts = _parts(path, name)
        if parts[0] == "__MACOSX" or parts[-1].startswith(".") or not wanted(parts[-1]):
            continue
        target = folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as out:
                while block := file.read(1 << 20):
                    left -= len(block)
                    if left < 0:
                        raise UserError(f"{path} unpacks to more than {MOST_RATIO} times its size; it is refused")
                    out.write(block)
        except zipfile.BadZipFile as error:  # a checksum that does not fit, found as its member is read
            raise _no_zip(path, error) from None
        except OSError as error:
            at = f"unpacking {path} to {folder} (another place: TMPDIR)"
            raise UserError(f"{at}: {printable(name)}: {error.strerror or error}") from None
    return folder


def _parts(path: Path, name: str) -> tuple[str, ...]:
    """The parts of a member's name. Raises UserError where it leads out of the folder."""
    plain = name.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if not parts or plain.startswith("/") or ".." in parts or PureWindowsPath(plain).drive or "\0" in name:
        raise UserError(f"{path} names the file {printable(name)!r}, which is outside the archive; it is refused")
    return parts


def _zip_files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if not item.is_dir():
                    with archive.open(item) as file:
                        yield item.filename, file
    except RuntimeError as error:
        raise UserError(f"{path} cannot be unpacked ({first_line(error)}); unpack it and give its folder") from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise _no_zip(path, error) from None


def _no_zip(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no whole zip archive ({first_line(error)}); get it again")


def _tar_files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for item, archive in tar_members(path):
        file = archive.extractfile(item)
        if file is not None:
            yield item.name, file


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files of a tar archive in their order; links and devices are left out. Raises UserError where it is cut."""
    with whole(path), open_bytes(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r|") as archive:
                for item in archive:
                    if item.isreg():
                        yield item, archive
        except tarfile.TarError as error:
            raise UserError(f"{path} is no whole tar archive ({first_line(error)}); get it again") from None
