"""Write files that appear whole or not at all, read JSON, and hash."""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .documents import read_json as read_json  # one place for all that reads and writes
from .errors import UserError
from .locks import hold, is_abandoned, is_locked, locked

if TYPE_CHECKING:
    import numpy as np

# In the name of every temporary file and folder of ours: what a killed command left is known by it, and nothing else is.
_MARK = ".mlx_phi3v"
# What file systems and desktops put into an empty folder.
_NOT_CONTENT = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"}
_SCRATCH = "mlx_phi3v-scratch-"  # begins the name of a folder in TMPDIR


@contextlib.contextmanager
def atomic_path(path: Path | str, *, shared: bool = False, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling to write; it takes the place of `path` only if the block ends well.

    shared: several processes may write `path` at once, with the same content, as in a cache. A temporary file that
    a killed process left is written over by the next one, or, in a shared folder, removed by `sweep`.
    sync: wait until it is on the disk; without, it is whole after a kill, but perhaps not after a power cut.

    Raises UserError where another process is writing `path`, and it is not shared.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as mx.save_safetensors append their own where it is missing.
    temporary = path.with_name(_temporary_name(path, uuid.uuid4().hex[:8] if shared else "") + path.suffix)
    with _naming(path, temporary), locked(temporary, path):
        try:
            yield temporary
            if sync:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary sibling folder that becomes `path` only if the block ends well.

    The name is the same each time: what a killed process left there is removed first.

    Raises UserError where `path` exists, is not empty and `overwrite` is false, or another process is writing it.
    """
    path = Path(path)
    require_new(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(_temporary_name(path)), path.with_name(_temporary_name(path, end=".old"))
    with _naming(path, temporary), locked(temporary, path, folder=True):
        try:
            require_new(path, overwrite=overwrite)  # another process may have ended meanwhile
            for left in (old, *temporary.iterdir()):
                _remove(left)
            yield temporary
            if overwrite and path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _remove(old)


def require_new(path: Path, *, overwrite: bool = False) -> None:
    """Raises UserError where no new folder can take the place of `path`: it is a file, or it holds something."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder that does not exist yet")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{path} exists and is not empty; choose another folder or remove it first")


@contextlib.contextmanager
def folder_in_place(folder: Path | str) -> Iterator[Path]:
    """Make `folder` where it is missing, and hold it: no other process writes there until the block ends.

    What a killed process left in it under a temporary name is removed. Raises UserError where another process holds it.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with _naming(folder), locked(folder, folder=True):
        sweep(folder)
        yield folder


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let what the system says of a full disk name `path`: a write names nothing, and a temporary file is not the user's."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        written = error.filename2 if full and error.filename2 else error.filename  # of a copy: the copy, not its source
        name = os.fsdecode(written) if isinstance(written, (str, bytes, os.PathLike)) else ""
        if not name and full:
            error.filename = str(path)
        elif temporary and name.startswith(str(temporary)):
            error.filename, error.filename2 = f"{path}{name.removeprefix(str(temporary))}", None
        raise


def atomic_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, in the place of a link that is there."""
    temporary = path.with_name(_temporary_name(path))
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def remove_folder(folder: Path) -> None:
    """Remove a folder under a temporary name: a process that is killed meanwhile leaves it whole, or to `sweep`."""
    aside = folder.with_name(_temporary_name(folder, end=".old"))
    _remove(aside)
    os.replace(folder, aside)
    _remove(aside)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of ours in `folder` (not below it) that no process is writing."""
    for path in folder.glob(f".*{_MARK}*.*"):
        if is_temporary(path) and not is_locked(path):
            _remove(path)


def content_of(folder: Path) -> list[str]:
    """The names of what is in a folder, without temporary files of ours and what comes by itself."""
    return sorted(path.name for path in folder.iterdir() if not is_temporary(path) and path.name not in _NOT_CONTENT)


def scratch_folder() -> Path:
    """A new folder in TMPDIR that is removed when the process ends. What a killed process left there is removed first."""
    import tempfile  # no other output needs it

    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if left.is_dir() and not left.is_symlink() and is_abandoned(left):
            _remove(left)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    hold(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def scratch_of(path: Path) -> Path | None:
    """The `scratch_folder` that `path` lies in, if any."""
    return next((folder for folder in (path, *path.parents) if folder.name.startswith(_SCRATCH)), None)


def is_temporary(path: Path) -> bool:
    """Whether this is a name that we give to what is not whole yet."""
    return bool(re.fullmatch(rf"\..*{re.escape(_MARK)}(-[0-9a-f]{{8}})?\.(tmp|old)(\.[^.]*)?", path.name, re.DOTALL))


def _temporary_name(path: Path, unique: str = "", end: str = ".tmp") -> str:
    """A hidden sibling's name; a long one by its hash, as a file system takes 255 bytes."""
    name = path.name if len(os.fsencode(path.name)) <= 200 else sha256_bytes(os.fsencode(path.name))[:32]
    return f".{name}{_MARK}{'-' * bool(unique)}{unique}{end}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError where the disk is full."""
    from safetensors import SafetensorError  # with numpy: most files hold no tensors
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata)
        except SafetensorError as error:  # its writer gives the system's error as text only
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def linked(folder: Path, names: Iterable[str]) -> Path:
    """A temporary folder beside `folder` with those of its files that are there, as links to the same content.

    Whoever asked for it removes it; what a killed process left is removed by `sweep`. Raises OSError.
    """
    folder = folder.resolve()
    made = folder.with_name(_temporary_name(folder, uuid.uuid4().hex[:8]))
    made.mkdir()
    for name in names:
        if (folder / name).is_file():
            try:
                os.link(folder / name, made / name)
            except OSError:  # a file system without links
                shutil.copyfile(folder / name, made / name)
    return made
