"""The range of a number, declared with its flag, and where a command may write: checked once for flags and YAML.

The upper ends are far above what any run uses: they stop a slip of the keyboard before it loops for hours or takes all
memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import UserError, shown

MAX_SEED = 2**63 - 1  # what torch's generator takes; MLX and numpy take more
MAX_TRAINING_SEED = 10**12  # a step's own seed is a million times it, and must stay below MAX_SEED
MAX_CROPS = 910  # of 144 tokens each: more do not fit into the model's 131,072 positions
MAX_TOKENS = 131_072  # the model's positions
MAX_BATCH = 4096  # rows of a pass are in memory together
MAX_STEPS = 10**9
MAX_ROWS = 10**9
MAX_RESAMPLES = 100_000  # each draws every row again; 2,000 give two digits of an interval
MAX_PROCESSES = 1024
MAX_GB = 1_000_000
MAX_PIXELS = 89_478_485  # of a photo: Pillow's own bound of one that is no decompression bomb, 1/4 GiB of RGB
MIN_SIDE = 8  # of a photo, in pixels


@dataclass(frozen=True)
class Range:
    """What a number may be. `above` and `below` leave out their end; nan and the infinities are never allowed."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def allows(self, value: float) -> bool:
        """Whether the number is finite and within."""
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """As it is said: "above 0", "from 1 to 910", "from 0 to below 1", "1 or more"."""
        upper = f"at most {_figure(self.at_most)}" if self.at_most is not None else ""
        upper = f"below {_figure(self.below)}" if self.below is not None else upper
        if self.above is not None:
            return f"above {_figure(self.above)}" + (f" and {upper}" if upper else "")
        if self.at_least is None:
            return upper or "a finite number"
        if not upper:
            return f"{_figure(self.at_least)} or more"
        return f"from {_figure(self.at_least)} to {upper.removeprefix('at most ')}"


def _figure(value: float) -> str:
    if value == MAX_SEED:
        return "2**63 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def range_of(field: dataclasses.Field[Any]) -> Range:
    """The range declared with a field; every finite number where there is none."""
    found: Range = field.metadata.get("range") or Range()
    return found


def check_value(field: dataclasses.Field[Any], value: Any, name: str) -> None:
    """Raise UserError if a number, or one of several, is out of the field's range; `name` is what the message calls it."""
    for item in value if isinstance(value, tuple) else (value,):
        number = isinstance(item, (int, float)) and not isinstance(item, bool)
        if number and not range_of(field).allows(item):
            raise UserError(f"{name} is {short(item)}; it must be {range_of(field)}")


def check_ranges(settings: Any) -> None:
    """Raise UserError for the first number of a settings dataclass out of its range, by the name of its flag."""
    for field in dataclasses.fields(settings):
        check_value(field, getattr(settings, field.name), "--" + field.name.replace("_", "-"))


def short(value: Any, limit: int = 60, show: Callable[[Any], str] = repr) -> str:
    """A value as a message shows it: on one line, without control letters, and not endless."""
    try:
        text = shown(show(value))
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value nested too deeply"
    return text if len(text) <= limit else text[: limit - 20] + "..." + text[-17:]
