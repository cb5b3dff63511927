"""Download a repository of the hub once, by its id: of a model, or of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .hub_errors import hub_sentence, quiet_log


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
