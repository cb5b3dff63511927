"""What a user may say about a data set of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubOptions:
    """What `datasets.load_dataset` is asked for beside the name."""

    config: str | None = None
    revision: str | None = None
    split: str | None = None
    streaming: bool = False

    def given(self) -> dict[str, Any]:
        """The arguments that are given, by load_dataset's names."""
        named = {"name": self.config, "revision": self.revision, "split": self.split, "streaming": self.streaming}
        return {key: value for key, value in named.items() if value}
