"""What the operating system says of a path, as a sentence with the mend."""

from __future__ import annotations

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RIGHTS = (errno.EACCES, errno.EPERM)
# Error -> the mend. Those of writing, of rights and of parents are told apart below.
_MENDS = {
    errno.ENOENT: "it does not exist; check the path",
    errno.EISDIR: "it is a folder; give a file",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links run in a circle; give another path",
    errno.EBUSY: "it is in use or a mount point; give another path",
    errno.ENOTEMPTY: "the folder is not empty; give another one or empty it",
    errno.EMFILE: "too many files are open; raise the limit with ulimit -n",
    errno.ENFILE: "too many files are open on this machine; close some",
    errno.EIO: "the disk has a fault; copy the files to another one",
    errno.ESTALE: "the network disk has lost it; mount it again",
    errno.ENXIO: "it is a device or socket; give a file",
    errno.ENODEV: "it is a device; give a file",
    errno.EXDEV: "it is on another disk; give a path on the same one",
    errno.ETXTBSY: "it is being run; give another path",
    errno.EINVAL: "the file system does not take it; give another path",
}


def os_sentence(error: OSError) -> str | None:
    """One sentence that names the path; None where the error is of no path or unknown, so nothing the user can mend."""
    number = error.errno
    # Of a copy that finds no room, the second name is the file that is written.
    path = _name(error.filename2 if number in _FULL and error.filename2 else error.filename)
    said = (error.strerror or "").strip() or type(error).__name__
    where = f" {path}" if path else ""
    if number in _FULL:
        mend = "raise the limit of a file's size (ulimit -f)" if number == errno.EFBIG else "free some space"
        return f"cannot write{where}: {said}; {mend} or choose another folder"
    if number == errno.EROFS:
        return f"cannot write{where}: {said}; choose another folder"
    if number in _RIGHTS:
        return _rights(path, said)
    if number in (errno.EMFILE, errno.ENFILE):
        return _MENDS[number]
    if not path:
        return "the current folder is gone; change to another one (cd)" if _is_current_folder_gone() else None
    if number in (errno.ENOTDIR, errno.EEXIST):
        return _in_the_way(path, said)
    known = _MENDS.get(number or 0)
    return f"{_cut(path)}: {said}; {known}" if known else f"{_cut(path)}: {said}"


def _name(filename: object) -> str:
    if isinstance(filename, bytes):
        return os.fsdecode(filename)
    return str(filename) if isinstance(filename, (str, os.PathLike)) else ""


def _is_current_folder_gone() -> bool:
    """Whether that is why the system could not name it."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _cut(path: str) -> str:
    return path if len(path) <= 300 else f"{path[:60]}... ({len(path):,} letters)"


def _rights(path: str, said: str) -> str:
    """A file that is there and cannot be opened was to be read; anything else was to be made or changed."""
    if not path:
        return f"cannot write: {said}; choose another folder, or get the right to write there"
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return f"cannot read {path}: {said}; get the right to read it (chmod u+r)"
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.lexists(path) and os.path.isdir(parent) and not os.access(parent, os.X_OK):
        return f"cannot reach {path}: {said}; get the right to enter its folder (chmod u+x)"
    return f"cannot write {path}: {said}; choose another folder, or get the right to write there"


def _in_the_way(path: str, said: str) -> str:
    """Something that is not a folder stands where one is needed, or the other way round."""
    parent = path
    while parent and not os.path.lexists(parent):
        shorter = os.path.dirname(parent.rstrip(os.sep))
        if shorter == parent:
            break
        parent = shorter
    if parent and os.path.lexists(parent) and not os.path.isdir(parent):
        below = "" if parent == path else f"{path}: "
        return f"{below}{parent} is a file, and a folder is needed there; give another path"
    return f"{path}: {said}; choose another path or remove it first"
