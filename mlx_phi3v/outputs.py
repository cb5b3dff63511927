"""Where a command may write: checked when its flags are read, before anything is loaded or written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from .errors import UserError

# "new": a folder that appears whole; "folder": one that is written in place; the others are single files.
Writes = Literal["new", "folder", "html", "baseline", "csv"]

# How a file begins that an earlier run of the same command wrote, and that may be written over. The marker of a page, and
# what pages of versions before the marker have in its place.
_BEGINS = {
    "html": re.compile(
        rb"<!doctype html>\n.*(<meta name=\"generator\" content=\"mlx-phi3v\">|"
        rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src )",
        re.DOTALL,
    ),
    "baseline": re.compile(rb'\{"manifest": ?\{'),
    "csv": re.compile(rb'id,"?true_([^"\r\n]*?)"?,"?predicted_\1"?,"?status_\1'),
}
_START = 1024  # bytes that are looked at
# What marks a folder as a run or a catalogue.
_MARKS = ("manifest.json", "catalogue.json")
# The files of runs and catalogues themselves.
_OWN = re.compile(r"manifest\.json|predictions\.jsonl|trace-.*\.jsonl|catalogue\.json|rejected\.csv|.*\.arrow", re.DOTALL)


def output_path(path: Path, writes: Writes, name: str) -> Path:
    """The path to write, behind any symbolic link. `name` is the flag or key, for messages.

    Raises UserError where nothing can be written there: below a file, a folder where a file belongs or the other way
    round, a mount point where a whole folder must take its place, or a file that this command did not write.
    """
    try:
        if path.is_symlink() or path.name in ("", ".."):
            path = path.resolve()
        _check_parents(path, name)
        if writes in ("new", "folder"):
            _check_folder(path, writes, name)
        else:
            _check_file(path, writes, name)
    except RuntimeError:  # what resolve raises for links in a circle
        raise UserError(f"{name} is {path}, a symbolic link in a circle; give another path") from None
    return path


def _check_parents(path: Path, name: str) -> None:
    for parent in path.parents:
        if parent.is_dir():
            return
        if os.path.lexists(parent):
            raise UserError(f"{name} is {path}, which lies below {parent}, a file; give a path whose folders are folders")


def _check_folder(path: Path, writes: Writes, name: str) -> None:
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{name} is {path}, a file; give a folder")
    if not path.name:
        raise UserError(f"{name} is {path}; give a folder in it")
    if writes == "folder" and (path / "catalogue.json").exists():
        raise UserError(f"{name} is {path}, a catalogue; give another folder")
    if writes == "new" and path.resolve() == Path.cwd():  # the shell would go on in the folder that was replaced
        raise UserError(f"{name} is the current folder; the folder must appear whole, so give one in it, such as new")
    if writes == "new" and os.path.ismount(path):
        raise UserError(f"{name} is {path}, a mount point; the folder must appear whole, so give one in it: {path / 'new'}")


def _check_file(path: Path, writes: Writes, name: str) -> None:
    if path.is_dir():
        raise UserError(f"{name} is {path}, a folder; give the name of a file")
    if os.path.lexists(path) and not path.is_file():  # /dev/null: the file that takes its place would remove it
        raise UserError(f"{name} is {path}, a device or a pipe; give the name of a file")
    marked = any((path.parent / mark).exists() for mark in _MARKS)
    if marked and is_own_file(path):  # also where it is empty or not there yet: a run that has just begun
        raise UserError(f"{name} is {path}, a file of the run or catalogue in that folder; choose another name")
    if not path.is_file() or not path.stat().st_size:
        return
    with open(path, "rb") as file:
        start = file.read(_START)
    if not _BEGINS[writes].match(start):
        raise UserError(f"{name} is {path}, a file that this command did not write; choose another name or remove it first")


def is_own_file(path: Path) -> bool:
    """Whether a run or a catalogue has a file of this name."""
    return bool(_OWN.fullmatch(path.name))
