"""A disk that is full after so many bytes: a small file system where this machine lets one be mounted, else a limit.

Only root on Linux may mount one. Elsewhere the system refuses files larger than so many bytes (RLIMIT_FSIZE), which
commands meet as the same kind of error.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FILLER = ".filler"


@dataclass(frozen=True)
class SmallDisk:
    """A folder to write to. `real`: it is a file system of its own."""

    folder: Path
    real: bool

    @contextlib.contextmanager
    def with_room(self, size: int) -> Iterator[None]:
        """For the length of the block, only `size` bytes can be written; files of that size each, where it is no disk."""
        if not self.real:
            with _largest_file(size):
                yield
            return
        filler = self.folder / _FILLER
        room = shutil.disk_usage(self.folder).free
        with open(filler, "wb") as file:
            if room > size:
                os.posix_fallocate(file.fileno(), 0, room - size)
        try:
            yield
        finally:
            filler.unlink()

    def files(self) -> dict[str, bytes]:
        """The content of every file on it."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name != _FILLER)
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    def clear(self) -> None:
        """Remove all that is on it."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Python ignores the signal that comes with it, so that a write fails with EFBIG; child processes inherit the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder: Path, *, size: int = 64 << 20, mount: bool = True) -> Iterator[SmallDisk]:
    """Make `folder` a disk of `size` bytes. mount: false for the limit, whatever this machine allows."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    may = mount and sys.platform == "linux" and not os.geteuid()
    if not may or subprocess.run(command, capture_output=True).returncode:
        yield SmallDisk(folder, real=False)
        return
    try:
        yield SmallDisk(folder, real=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
