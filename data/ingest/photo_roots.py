"""Which file a picture's path means: below the table's folder, or below the folder that --image-root names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import parse_qs, unquote, urlsplit

from mlx_phi3v.files import scratch_of

from .near_names import nearest

# What Label Studio's server puts before a file that was uploaded (and eight digits before its name), or is read from a folder.
_UPLOADED = re.compile(r"/data/upload/(?:\d+/)?")
_UPLOAD_MARK = re.compile(r"[0-9a-f]{8}-(?=.)")
_LOCAL_FILES = "/data/local-files/"


@dataclass(frozen=True)
class PhotoRoots:
    """Folders that relative paths start from: the table's own, and the one that the user gave.

    A table on this disk may name any photo of it. What comes from elsewhere, a data set of the hub (it has no own folder)
    or an archive, may name its own photos only, and those below the given folder. near: what `find` took for a path that
    names no file itself.
    """

    own: Path | None
    given: Path | None = None
    near: list[Path] = field(default_factory=list, compare=False)

    @property
    def any(self) -> bool:
        """Whether paths are read at all."""
        return self.own is not None or self.given is not None

    def find(self, name: str) -> Path | None:
        """The file that a path means, or None. Raises OSError, ValueError or RuntimeError for what cannot be a path.

        Backslashes, a leading slash (site-relative), a query and the prefixes of Label Studio's server are understood. Of
        an absolute path of another machine as much of the end is taken as is found below the given folder. Where there is
        no such file, one whose name differs in case, Unicode form or suffix alone is taken (see `nearest`).
        """
        name = _local(name)
        for path in self._candidates(name):
            if path.is_file() and self._may_read(path):
                return path
        for root in (self.given, self.own):
            near = nearest(root, name) if root is not None else None
            if near is not None and self._may_read(near):
                self.near.append(near)
                return near
        return None

    def _may_read(self, path: Path) -> bool:
        archive = scratch_of(self.own) if self.own else None
        if self.own is not None and archive is None:
            return True
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in (self.given, archive) if root is not None)

    def _candidates(self, name: str) -> Iterator[Path]:
        if self.given is not None:
            yield from _below(self.given, name, search=True)
        if self.own is not None:
            yield self.own / Path(name).expanduser()
            yield from _below(self.own, name, search=False)


def _local(name: str) -> str:
    """A `file:` URL as the path that it names; any other name as it is."""
    if not name.lower().startswith("file:/"):
        return name
    path = unquote(urlsplit(name).path)
    return path[1:] if PureWindowsPath(path[1:]).drive else path


def _below(root: Path, name: str, *, search: bool) -> Iterator[Path]:
    """Where `name` may be below `root`, the likeliest first. `search`: also the end of an absolute path."""
    plain = name.replace("\\", "/")
    if plain.startswith(_LOCAL_FILES):
        plain = "/" + parse_qs(urlsplit(plain).query).get("d", [""])[0].lstrip("/")
    relative = plain.lstrip("/")
    windows = PureWindowsPath(name)
    parts = (windows if windows.drive else PurePosixPath(relative)).parts[1 if windows.drive else 0 :]
    yield root / relative
    if "%" in relative:
        yield root / unquote(relative)
    if "?" in relative:  # a.jpg?width=100
        yield root / unquote(relative.partition("?")[0])
    if (upload := _UPLOADED.match(plain)) is not None:
        file = plain[upload.end() :]
        yield root / file
        yield root / _UPLOAD_MARK.sub("", file, count=1)
    if len(parts) > 1 and root.name == parts[0]:  # images/a.jpg, and the root is the folder images
        yield root.joinpath(*parts[1:])
    if search and (plain.startswith("/") or windows.drive):
        for start in range(1, len(parts)):
            yield root.joinpath(*parts[start:])
