"""TensorBoard: event files in OUTPUT/tensorboard, written by TensorBoard's own writer without TensorFlow."""

from __future__ import annotations

import shlex
import sys
import time
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .logger import Answers, RunInfo, Status, Verdict
from .pictures import as_png, with_caption
from .tables import markdown, settings_table

FOLDER = "tensorboard"


class TensorBoardLogger:
    """A run as event files; each opening of it begins another file in the same folder."""

    rewinds = True

    def __init__(self, run: RunInfo) -> None:
        _without_tensorflow()
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = run.folder / FOLDER
        self._events: Any = event_pb2
        self._writer: Any = EventFileWriter(str(self.folder))
        self._last = run.step
        if run.begun and run.goes_on:
            # TensorBoard then drops what an earlier file holds from this step on: a killed process wrote it.
            restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(run.step + 1, session_log=restart)
        elif not run.begun:
            self._text(0, "settings", settings_table(run))

    def held(self) -> int | None:
        """See `Logger`. It writes each call at once."""
        return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`. TensorBoard holds fp32."""
        self._summary(step, [{"tag": name, "simple_value": value} for name, value in values.items()])

    def answers(self, table: Answers) -> None:
        """See `Logger`."""
        self._text(table.step, "validation/answers", markdown(table))
        for number, row in enumerate(table.rows):
            if row.picture is not None:
                lines = [f"answer: {row.answer}", f"truth: {row.truth}"]
                self._image(table.step, f"validation/answer {number:02d}", with_caption(row.picture, lines))
        self.scalars(table.step, table.measures)

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """TensorBoard holds no files: the text says where the adapter was."""
        self._text(step, "checkpoint", f"step {step} ({', '.join(aliases)}): `{folder.name}` of the output folder")

    def verdict(self, verdict: Verdict) -> None:
        """See `Logger`."""
        page = f"\n\nThe whole report: `{verdict.page}`" if verdict.page else ""
        self._text(self._last, f"verdict/{verdict.name}", f"**{verdict.word}**\n\n```\n{verdict.lines}\n```{page}")
        self.scalars(self._last, {f"verdict/{verdict.name}/{name}": value for name, value in verdict.measures.items()})

    def close(self, status: Status) -> None:
        """See `Logger`."""
        self._writer.close()

    def where(self) -> str:
        """See `Logger`."""
        return f"tensorboard --logdir {shlex.quote(str(self.folder))}"

    def _text(self, step: int, tag: str, text: str) -> None:
        from tensorboard.compat.proto import tensor_pb2, types_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata

        one = {"dim": [{"size": 1}]}
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()], tensor_shape=one)
        self._summary(step, [{"tag": tag, "metadata": create_summary_metadata(tag, ""), "tensor": tensor}])

    def _image(self, step: int, tag: str, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": as_png(picture)}
        self._summary(step, [{"tag": tag, "image": image}])

    def _summary(self, step: int, values: Iterable[dict[str, Any]]) -> None:
        self._write(step, summary={"value": list(values)})
        self._writer.flush()

    def _write(self, step: int, **what: Any) -> None:
        self._writer.add_event(self._events.Event(step=step, wall_time=time.time(), **what))


def _without_tensorflow() -> None:
    """Have TensorBoard use its own file functions: it would import TensorFlow, where that is installed, to write a file.

    `tensorboard.compat` asks for this module by its name, and TensorBoard's own build without TensorFlow has it.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
