"""Download a repository of the hub once, by its id: of a model, or of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .hub_errors import hub_sentence, is_hub_id, quiet_log


def download(name: str, files: Sequence[str], missing: str) -> Path:
    """The folder with the `files` (patterns) of repository `name`, in the hub's cache.

    missing: how the message begins: where `name` was given, and that there is no such folder. Raises UserError where
    there is no download.
    """
    import huggingface_hub

    try:
        with quiet_log():
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # the hub client raises many kinds; all mean that there is no download
        raise UserError(
            f"{missing}, and the download from the hub failed: {hub_sentence(error, name)}; or give a folder"
        ) from None


def download_dataset(name: str, mark: str, files: Sequence[str], revision: str | None = None) -> Path | None:
    """The folder with the `files` of data set `name`; None where it has no file `mark`, or is not to be had.

    Only `mark` is asked for first. Raises UserError where there is one and the files cannot be downloaded.
    """
    if not is_hub_id(name):
        return None
    import huggingface_hub

    options: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    with quiet_log():
        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[mark], **options))
        except Exception:  # it is not there, or nobody can be asked
            return None
        if not (folder / mark).is_file():
            return None
        try:
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files), **options))
        except Exception as error:  # as in `download`
            raise UserError(f"the download of {name} from the hub failed: {hub_sentence(error, name)}") from None
