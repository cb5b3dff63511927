"""Which weight files were found finite before, so that an unchanged one is not read once more for it.

One small file in the user's cache folder. As in git's index, a file counts as unchanged while its real path, device, inode,
size and both of its times are those of the entry; and, as git's "racily clean" ones, a file that was written within
seconds of its check gets no entry: another write in the same tick of a clock would leave the times as they are. Whatever
cannot be read or written here means that files are checked again, nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..documents import read_as
from ..errors import UserError
from ..files import atomic_path, sha256_json
from ..user_cache import cache_folder
from .headers import TensorInfo

MOST = 256  # entries: the newest are kept
_SETTLED = 5_000_000_000  # nanoseconds: FAT's clock ticks every 2 s, a kernel's every 10 ms
_UNUSABLE = (OSError, UserError, ValueError, RuntimeError)  # a name that is no Unicode; links in a circle


class CheckedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight file as it was when it was checked; times in nanoseconds."""

    path: str  # links followed
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    tensors: str  # SHA-256 of the names that were checked: another configuration may use others
    float16: bool  # whether its numbers were also found to be in float16's range


class _File(msgspec.Struct, forbid_unknown_fields=True):
    files: list[CheckedFile]


@dataclass
class FileCheck:
    """The check of one file: what it was like before, and which of its tensors are not checked yet."""

    now: CheckedFile | None  # None: it cannot be told
    began: int  # nanoseconds since the epoch
    believed: bool
    left: set[str]

    @property
    def entry(self) -> CheckedFile | None:
        """What is to be remembered once all is checked, if anything is."""
        settled = self.now is not None and max(self.now.mtime_ns, self.now.ctime_ns) + _SETTLED < self.began
        return self.now if settled and not self.believed and not self.left else None


def path() -> Path:
    """Where the entries are, or would be."""
    return cache_folder() / "checked_weights.json"


def begin(tensors: Mapping[str, TensorInfo], target: str | None) -> dict[Path, FileCheck]:
    """The check of each file of these tensors, for the dtype `target`."""
    began, known = time.time_ns(), _entries()
    names: dict[Path, set[str]] = {}
    for name, info in tensors.items():
        names.setdefault(info.file, set()).add(name)
    checks = {}
    for file, left in names.items():
        now = _state(file, sha256_json(sorted(left)), target == "float16")
        believed = now is not None and (now in known or msgspec.structs.replace(now, float16=True) in known)
        checks[file] = FileCheck(now, began, believed, left)
    return checks


def remember(checks: Mapping[Path, FileCheck]) -> None:
    """Write the files down whose check is whole, and that are still as they were."""
    found = {
        check.entry.path: check.entry
        for file, check in checks.items()
        if check.entry is not None and _state(file, check.entry.tensors, check.entry.float16) == check.entry
    }
    if not found:
        return
    entries = [entry for entry in _entries() if entry.path not in found] + list(found.values())
    try:
        with atomic_path(path(), sync=False) as temporary:
            temporary.write_bytes(msgspec.json.encode(_File(entries[-MOST:])))
    except _UNUSABLE:
        return


def _entries() -> list[CheckedFile]:
    try:
        return read_as(path(), "record of checked weights", _File).files
    except _UNUSABLE:
        return []


def _state(file: Path, tensors: str, float16: bool) -> CheckedFile | None:
    try:
        real = file.resolve(strict=True)
        number = os.open(real, os.O_RDONLY)  # where a file is opened, a network file system asks for its times again
        try:
            found = os.fstat(number)
        finally:
            os.close(number)
    except _UNUSABLE:
        return None
    return CheckedFile(
        str(real), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, tensors, float16
    )
