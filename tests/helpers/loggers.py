"""A logger for tests that notes its calls, and raises or hangs where it is told to."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.loggers.logger import Answers, RunInfo, Status, Verdict

SECRET = "0123456789abcdef0123456789abcdef01234567"


class FakeLogger:
    """raises, hangs: the method that does. forever: what one that hangs waits for. held: the last step it has."""

    rewinds = False

    def __init__(
        self, *, raises: str = "", hangs: str = "", forever: threading.Event | None = None, held: int | None = None
    ) -> None:
        self._held = held
        self.raises, self.hangs, self.forever = raises, hangs, forever or threading.Event()
        self.calls: list[tuple[str, Any]] = []

    def opened(self, run: RunInfo | None = None) -> FakeLogger:
        """What opens it."""
        self._act("open")
        return self

    def _act(self, name: str) -> None:
        if name == self.hangs:
            self.forever.wait()
        if name == self.raises:
            raise RuntimeError(f"the key {SECRET} is wrong")

    def held(self) -> int | None:
        """See `Logger`."""
        return self._held

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._act("scalars")
        self.calls.append(("scalars", step))

    def answers(self, table: Answers) -> None:
        """See `Logger`."""
        self._act("answers")
        self.calls.append(("answers", table.step))

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """See `Logger`."""
        self._act("checkpoint")
        self.calls.append(("checkpoint", sorted(path.name for path in folder.iterdir())))

    def verdict(self, verdict: Verdict) -> None:
        """See `Logger`."""
        self._act("verdict")
        self.calls.append(("verdict", verdict.word))

    def close(self, status: Status) -> None:
        """See `Logger`."""
        self._act("close")
        self.calls.append(("close", status))

    def where(self) -> str:
        """See `Logger`."""
        return "here"
