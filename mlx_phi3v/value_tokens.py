"""Which tokens of an answer are a field's value, and their log-probability."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tokenizers import Tokenizer

from .task import Task

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space


class TokenTexts:
    """The bytes that each token adds to a text, of a tokenizer in SentencePiece's form, as Phi-3's is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {
            number for number, token in tokenizer.get_added_tokens_decoder().items() if getattr(token, "special", False)
        }
        self._known: dict[int, bytes] = {}

    def bytes_of(self, number: int) -> bytes:
        """A token's bytes; none of a special one."""
        if number not in self._known:
            token = "" if number in self._special else self._tokenizer.id_to_token(number) or ""
            byte = _BYTE.fullmatch(token)
            self._known[number] = bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
        return self._known[number]


def value_logprobs(
    text: str, token_ids: Sequence[int], logprobs: Sequence[float], task: Task, texts: TokenTexts
) -> dict[str, float]:
    """Field -> log-probability of its value in nats, the sum over the value's tokens.

    A token counts where any of its characters is the value's. Empty where an answer lacks tokens or log-probabilities, or
    where the tokens do not spell its text.
    """
    found = {}
    for name, places in value_places(text, token_ids, task, texts).items():
        inside = [logprobs[i] for i in places if i < len(logprobs)]
        if len(logprobs) == len(token_ids) and all(map(math.isfinite, inside)):
            found[name] = sum(inside)
    return found


def value_places(text: str, token_ids: Sequence[int], task: Task, texts: TokenTexts) -> dict[str, list[int]]:
    """Field -> the places of its value's tokens among `token_ids`; see `value_logprobs`."""
    if not text:
        return {}
    pieces = [texts.bytes_of(number) for number in token_ids]
    whole = b"".join(pieces)
    begin = whole.find(text.encode())
    if begin < 0 or whole[:begin].strip() or whole[begin + len(text.encode()) :].strip():
        return {}
    ends, at = [], -begin
    for piece in pieces:
        at += len(piece)
        ends.append(at)
    found = {}
    for name, (start, stop) in task.spans(text).items():
        first, last = len(text[:start].encode()), len(text[:stop].encode())
        places = [i for i, (end, piece) in enumerate(zip(ends, pieces)) if end > first and end - len(piece) < last and piece]
        if places:
            found[name] = places
    return found
