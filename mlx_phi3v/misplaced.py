"""What stands where a model or an adapter was expected, as a hint in the error: a file of it, a folder above, the other one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

MODEL_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
_OTHERS = {MODEL_FILE: "a model, which is for --model", ADAPTER_FILE: "an adapter, which is for --adapter"}
_MOST = 200  # entries of a folder that are looked at
_DEPTH = 2  # a hub's cache has snapshots/COMMIT, LM Studio PUBLISHER/MODEL
_SHOWN = 4


def hint(path: Path, wanted: str) -> str:
    """ "; ..." for a path without the file `wanted` (MODEL_FILE or ADAPTER_FILE); "" where nothing near says more."""
    try:
        return _hint(path, wanted)
    except OSError:
        return ""


def _hint(path: Path, wanted: str) -> str:
    if path.suffix.lower() == ".gguf" or (path.is_dir() and any(_entries(path, "*.gguf"))):
        return "; GGUF is llama.cpp's form and is not read: give the folder with the published .safetensors"
    if path.is_file():
        return f"; give its folder {path.parent}" if (path.parent / wanted).is_file() else ""
    if not path.is_dir():
        return ""
    other = ADAPTER_FILE if wanted == MODEL_FILE else MODEL_FILE
    if (path / other).is_file():
        return f"; it is {_OTHERS[other]}"
    found = (entry for depth in range(1, _DEPTH + 1) for entry in _entries(path, "*/" * depth + wanted))
    below = sorted({entry.parent for entry in found}, key=_order)
    if not below:
        return ""
    listed = ", ".join(map(str, below[-_SHOWN:]))
    return f"; give {listed}" if len(below) == 1 else f"; give one of the {len(below)} below it: {listed}"


def _entries(path: Path, pattern: str) -> Iterator[Path]:
    return itertools.islice(path.glob(pattern), _MOST)


def _order(path: Path) -> list[tuple[str, int]]:
    """checkpoint-900 before checkpoint-1000."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", str(path))]
