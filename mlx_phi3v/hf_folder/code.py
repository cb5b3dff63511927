"""The published Python code, put beside the weights: from the base's folder, else from the hub. It is copied, never run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..documents import inside
from ..errors import UserError
from ..files import sha256_bytes
from ..hub.hub_errors import quiet_log

_RELATIVE = re.compile(r"^\s*from\s+\.(\w+)\s+import|^\s*from\s+\.\s+import\s+(\w+)", re.MULTILINE)
_MOST_BYTES = 4 << 20  # of one Python file; the longest published one has 80 KB
_SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{40})$")


@dataclass(frozen=True)
class Code:
    """What was copied: name -> SHA-256, and where from; without files where there was none, `origin` then says why."""

    files: dict[str, str]
    origin: str


def snapshot_of(folder: Path) -> tuple[str, str] | None:
    """(hub id, revision) of a folder of the hub's cache; None for any other folder."""
    found = _SNAPSHOT.search(folder.absolute().as_posix())
    return (found[1].replace("--", "/", 1), found[2]) if found else None


def add_code(folder: Path, modules: Sequence[str], base: Path, repositories: Sequence[tuple[str, str | None]]) -> Code:
    """Copy `modules` (names without .py), and what they import beside them, into `folder`.

    base: the folder that the weights came from, tried first. repositories: (hub id, revision or None), tried in this order.
    """
    text = _collect(modules, lambda name: _local(base, name))
    if text:
        snapshot = snapshot_of(base)  # no path of this machine: the folder may be given on
        return _write(folder, text, " at ".join(snapshot) if snapshot else f"the folder {base.name} of the weights")
    problem = "there is none"
    for repo, revision in repositories:
        reader = _HubReader(repo, revision)
        text = _collect(modules, reader)
        if text:
            return _write(folder, text, f"{repo} at {reader.revision or revision or 'main'}")
        problem = reader.problem
    return Code({}, problem)


def _collect(modules: Sequence[str], read: Callable[[str], bytes | None]) -> dict[str, bytes] | None:
    """The files of the modules and of what they import relatively; None where one is missing."""
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = f"{waiting.pop()}.py"
        if name in found:
            continue
        data = read(name)
        if data is None or len(data) > _MOST_BYTES:
            return None
        found[name] = data
        waiting += [one or other for one, other in _RELATIVE.findall(data.decode("utf-8", "replace"))]
    return found


def _local(base: Path, name: str) -> bytes | None:
    if not (base / name).is_file():
        return None
    try:
        return inside(base, name, base / "config.json").read_bytes()
    except (UserError, OSError):  # a link out of the folder, or no rights
        return None


class _HubReader:
    """Reads files of one repository; `problem` says why it could not, `revision` which commit it took."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo, self.wanted = repo, revision
        self.revision: str | None = None
        self.problem = ""

    def __call__(self, name: str) -> bytes | None:
        from huggingface_hub import hf_hub_download

        try:
            # All of one commit: the first file's, where none is named.
            with quiet_log():
                path = Path(hf_hub_download(self.repo, name, revision=self.revision or self.wanted))
            snapshot = snapshot_of(path.parent)
            self.revision = snapshot[1] if snapshot else self.revision
            return path.read_bytes()
        except Exception as error:  # the hub client raises many kinds; all mean that there is no download
            self.problem = f"the download from {self.repo} failed ({type(error).__name__})"
            return None


def _write(folder: Path, text: dict[str, bytes], origin: str) -> Code:
    for name, data in text.items():
        (folder / name).write_bytes(data)
    return Code({name: sha256_bytes(data) for name, data in sorted(text.items())}, origin)
