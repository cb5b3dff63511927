"""Text from outside on its way out: shown in a terminal, put into a table that a spreadsheet may open, stored as UTF-8."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

# Control characters and escape sequences, hidden and bidirectional marks, lone surrogates, line and paragraph separators.
_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners make emoji and Indic and Persian spelling, and move nothing.
_KEPT = "\u200c\u200d"
# What makes spreadsheets run a cell (OWASP, CSV injection), and the wide forms that East Asian ones take for the same.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_MOST_MARKS = 1000
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d+)*|\d*\.\d+)(?:[eE][+-]?\d+)?\s*%?")


def printable(text: object, *, lines: bool = False) -> str:
    """Text that a terminal shows and does not obey: what would act stands as its escape, as in a Python string.

    With `lines` line feeds stay as they are.

    >>> printable("red\\x1b[2J\\u202e")
    'red\\\\x1b[2J\\\\u202e'
    """
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    return "".join(_escaped(character) if _acts(character, lines) else character for character in found)


def _acts(character: str, lines: bool) -> bool:
    if character == "\n" and lines:
        return False
    return unicodedata.category(character) in _ACTING and character not in _KEPT


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet runs: a quote goes before text that starts like a formula.

    Numbers stay numbers, also as text ("-5"), and what is no text stays as it is.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value


def in_form(form: Literal["NFC", "NFKC", "NFD", "NFKD"], text: str) -> str:
    """`text` in a Unicode form, in a time that grows as its length.

    Putting a run of accents in order takes the square of its length. Of more than a thousand in a row each thousand is put
    in order by itself; no letter has so many.

    >>> in_form("NFC", "e\\u0301")
    'é'
    """
    if len(text) <= _MOST_MARKS:
        return unicodedata.normalize(form, text)
    marks = "".join(character for character in set(text) if unicodedata.combining(character))
    pieces = re.split(f"((?:[{re.escape(marks)}]){{{_MOST_MARKS}}})", text) if marks else [text]
    return "".join(unicodedata.normalize(form, piece) for piece in pieces)


def listed(items: Iterable[str], most: int) -> str:
    """The first items, and how many more there are.

    >>> listed(["a", "b", "c"], 2), listed(["a", "b"], 2)
    ('a, b and 1 more', 'a, b')
    """
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def storable(text: str) -> str:
    """`text` as UTF-8 can hold it: a lone surrogate, from a JSON escape or a file's name, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
