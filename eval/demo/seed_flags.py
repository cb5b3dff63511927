"""What the flags of the jobs with several seeds have in common."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from mlx_phi3v.flags import own_flag

MAX_SEEDS = 100  # trainings a side


def same_command(command: str, config: Any) -> str:
    """The command line that goes on from what `config` made: all flags that were given, but --seeds and --json."""
    words = [command]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in ("seeds", "json") and value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [own_flag(field), *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)
