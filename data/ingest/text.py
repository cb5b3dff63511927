"""Text from a catalogue made safe and uniform: one Unicode form, one line, no hidden characters."""

from __future__ import annotations

import unicodedata

from mlx_phi3v.task import clean_text
from mlx_phi3v.text import in_form

# Zero-width joiners belong to emoji and to Indic and Persian spelling; every other format character is dropped.
_KEPT_FORMAT = "\u200c\u200d"


def normalise(text: str) -> str:
    """`text` in Unicode NFC, on one line, without control and hidden characters, special tokens defused.

    >>> normalise("Cafe\\u0301  <|end|>\\n")
    'Café ‹|end|>'
    """
    if text.isascii() and text.isprintable():
        return clean_text(text)  # most titles: nothing to compose, nothing hidden
    # Hidden characters first: dropping one may bring letter and accent together, or build a special token.
    hidden = "" if text.isprintable() else filter(_is_hidden, set(text))  # each once: a cell may have millions of them
    visible = text.translate(dict.fromkeys(map(ord, hidden)))
    return clean_text(in_form("NFC", visible))


def _is_hidden(character: str) -> bool:
    if character.isspace() or character in _KEPT_FORMAT:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
