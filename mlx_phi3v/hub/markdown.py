"""Markdown of text from outside: shown as it is, never as a heading, a link, a table's cell or HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..redaction import redacted
from ..text import printable

# All that Markdown, its GitHub dialect and HTML give a meaning inside a line: written as character references, which are
# text and nothing else (CommonMark 0.31, 2.5 and 6.11). ":" and "@" would make a link of an address; "_" inside a word is
# nothing but itself.
_ACTING = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*{}\[\]()#+!|<>&~$:@\"'=^]|(?i:(?<=www)\.)")
_LONGEST = 300


def text(value: object) -> str:
    """One line of text from outside, for Markdown.

    >>> text("<b>Scarf</b> | [x](http://y)")
    '&#60;b&#62;Scarf&#60;/b&#62; &#124; &#91;x&#93;&#40;http&#58;//y&#41;'
    """
    found = printable(redacted(" ".join(str(value).split())))
    found = found if len(found) <= _LONGEST else found[: _LONGEST - 3] + "..."
    return _ACTING.sub(lambda letter: f"&#{ord(letter[0])};", found)


def block(value: str) -> list[str]:
    """Text of several lines from outside, as a block of code whose fence it does not hold."""
    longest = max((len(run) for run in re.findall(r"~+", value)), default=0)
    fence = "~" * max(3, longest + 1)
    return [f"{fence}text", *printable(redacted(value), lines=True).split("\n"), fence]


def code(value: str) -> str:
    """What is ours, a hash or a number, as code."""
    return f"`{value}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table. The cells are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(value: float | int | None) -> str:
    """A figure with four digits; a dash for none."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
