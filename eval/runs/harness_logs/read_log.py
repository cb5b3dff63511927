"""Which harness a log is of is found by what is in the file."""

from __future__ import annotations

import stat
from pathlib import Path

from mlx_phi3v.errors import UserError

from . import inspect_log, sample_lines
from .log import HarnessLog

_KINDS = "lm-evaluation-harness and lmms-eval: .jsonl of --log_samples; Inspect: .eval or .json"


def is_log(path: Path) -> bool:
    """Whether a file looks like a harness' log, by its name and its first line."""
    if not path.is_file():
        return False
    return path.suffix.lower() == ".eval" or (path.suffix.lower() == ".jsonl" and sample_lines.is_sample_log(path))


def read_log(path: Path) -> HarnessLog:
    """Read a log of one of the harnesses, found by what is in the file.

    Raises UserError where the file is none of them, or is truncated, corrupt or of another shape.
    """
    if not path.exists():
        raise UserError(f"--input {path} does not exist")
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"--input {path} is a {'folder' if path.is_dir() else 'device'}; give a file")
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return inspect_log.read_archive(path)
    if sample_lines.is_sample_log(path):
        return sample_lines.read_sample_lines(path)
    if path.suffix.lower() == ".json":
        return inspect_log.read_document(path)
    raise UserError(
        f"--input {path} is no log of a harness ({_KINDS}); a table of predictions needs its catalogue: give --data"
    )
