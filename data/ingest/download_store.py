"""Downloaded photos on disk, by the hash of their URL: whole or not there, and the reasons of those that failed."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.files import atomic_path, sweep

from .photos import PhotoUnusableError


def url_key(url: str) -> str:
    """The name under which a URL's bytes are stored: never anything from the URL itself."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def _place(folder: Path, url: str) -> Path:
    key = url_key(url)
    return folder / key[:2] / key


@dataclass(frozen=True)
class DownloadStore:
    """The folders of downloaded photos and of the reasons why others failed.

    They are separate so that later runs can use the photos and try the failures again.
    """

    photos: Path
    failures: Path

    def sweep(self) -> None:
        """Remove what killed runs left half written."""
        for folder in (*self.photos.glob("??"), *self.failures.glob("??")):
            sweep(folder)

    def is_done(self, url: str) -> bool:
        """Whether a URL's photo or its failure is stored."""
        return _place(self.photos, url).exists() or _place(self.failures, url).exists()

    def read(self, url: str) -> bytes:
        """The bytes fetched from a URL. Raises PhotoUnusableError with the reason where there are none."""
        with contextlib.suppress(FileNotFoundError):
            return _place(self.photos, url).read_bytes()
        try:
            reason, _, detail = _place(self.failures, url).read_text(encoding="utf-8").partition("\n")
        except FileNotFoundError:
            raise PhotoUnusableError("download_missing", url) from None
        raise PhotoUnusableError(reason, f"{url} {detail}".strip())

    def save(self, url: str, data: bytes) -> None:
        """Store a whole photo."""
        write_whole(_place(self.photos, url), data, shared=True)

    def save_failure(self, url: str, reason: str, detail: str) -> None:
        """Store the reason of a failure."""
        write_whole(_place(self.failures, url), f"{reason}\n{detail}".encode("utf-8", "replace"), shared=True)


def write_whole(path: Path, data: bytes | pa.Buffer, *, shared: bool = False) -> None:
    """Write a file of the work folder, whole or not at all even if this process is killed.

    shared: other processes may write it too, with the same content. Nothing waits for the disk: after a power cut the
    work may have to start again, the catalogue is safe.
    """
    with atomic_path(path, shared=shared, sync=False) as temporary:
        temporary.write_bytes(data)
