"""Regular expressions from outside, held to a time: Python's `re` cannot be stopped, a process can."""

from __future__ import annotations

import functools
import json
import re
import sys

from .errors import UserError

SECONDS = 3.0  # all names of the published model take a sound expression some milliseconds
MOST_LETTERS = 10_000
_MATCH = "import json, re, sys; p, names = json.load(sys.stdin); print(json.dumps([n for n in names if re.fullmatch(p, n)]))"


@functools.lru_cache(maxsize=64)
def fully_matching(pattern: str, names: tuple[str, ...], key: str) -> frozenset[str]:
    """The `names` that `pattern` matches whole. `key` is what the pattern is called in an error.

    A pattern without repetition is matched at once; any other in a process of its own, which ends after SECONDS.
    Raises UserError where the pattern is no regular expression, or takes longer.
    """
    short = pattern if len(pattern) <= 60 else pattern[:57] + "..."
    if len(pattern) > MOST_LETTERS:
        raise UserError(f"{key} has {len(pattern)} letters; it must have at most {MOST_LETTERS}")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{key} is {short!r}; it must be a regular expression ({error})") from None
    if not re.search(r"[*+{]", pattern):  # nothing is repeated, so nothing can take long
        return frozenset(name for name in names if re.fullmatch(pattern, name))
    import subprocess  # most names have no pattern

    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    try:
        done = subprocess.run(command, input=json.dumps([pattern, names]).encode(), capture_output=True, timeout=SECONDS)
        return frozenset(json.loads(done.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        raise UserError(f"{key} is {short!r}, which takes too long to match; it must be a simpler expression") from None
