"""Photos of a run that lie on this machine, in its own folders and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..runs.run import Run


def own_photo(run: Run, image: str | None) -> Path | None:
    """The photo that a run's row names, where it lies in the run's own catalogue or in the run's folder; else None.

    A run may come from someone else, and a page is passed on: no other file of this machine goes into it.
    """
    if not isinstance(image, str) or not image:
        return None
    try:
        path = Path(image).resolve()
        return path if any(path.is_relative_to(folder) for folder in _own_folders(run)) else None
    except (OSError, ValueError, RuntimeError):  # a NUL, too long a name, links in a circle
        return None


def _own_folders(run: Run) -> Iterator[Path]:
    if run.path.is_dir():
        yield run.path.resolve()
    catalogue = run.manifest.get("catalogue")
    if isinstance(catalogue, str) and catalogue and (Path(catalogue) / "catalogue.json").is_file():
        yield Path(catalogue).resolve()
