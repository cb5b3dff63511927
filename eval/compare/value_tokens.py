"""Which tokens of an answer are a field's value, and their log-probability: with the run's tokenizer, where it is here."""

from __future__ import annotations

import math
import re
from pathlib import Path

from tokenizers import Tokenizer

from mlx_phi3v.checkpoint.hub import BUILTIN, resolve_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_file
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task

from ..runs.prediction import Prediction
from ..runs.run import Run

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_FILE = "tokenizer.json"
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


def tokenizer_of(run: Run) -> TokenTexts | None:
    """The tokenizer of a run's model, where its file is on this machine and has the hash that the run recorded."""
    wanted, model = (run.manifest.get("hashes") or {}).get("tokenizer"), run.manifest.get("model")
    if not isinstance(wanted, str) or not isinstance(model, str) or not model:
        return None
    try:
        folder = _model_folder(model)
        if folder is None or not (folder / _FILE).is_file() or sha256_file(folder / _FILE) != wanted:
            return None
        return TokenTexts(PromptProcessor(folder).tokenizer)
    except (OSError, ValueError, UserError):
        return None


def _model_folder(model: str) -> Path | None:
    """The folder of a model that is here: a folder, the built-in model, or one in the hub's cache; nothing is fetched."""
    if model == BUILTIN or Path(model).is_dir():
        return resolve_model(model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, _FILE)
    return Path(found).parent if isinstance(found, str) else None


def value_logprobs(row: Prediction, task: Task, texts: TokenTexts) -> dict[str, float]:
    """Field -> log-probability of its value in nats, the sum over the value's tokens.

    A token counts where any of its characters is the value's. Empty where a row lacks tokens or log-probabilities, or
    where the tokens do not spell its text.
    """
    if not row.text or len(row.logprobs) != len(row.token_ids):
        return {}
    pieces = [texts.bytes_of(number) for number in row.token_ids]
    whole = b"".join(pieces)
    begin = whole.find(row.text.encode())
    if begin < 0 or whole[:begin].strip() or whole[begin + len(row.text.encode()) :].strip():
        return {}
    ends, at = [], -begin
    for piece in pieces:
        at += len(piece)
        ends.append(at)
    found = {}
    for name, (start, stop) in task.spans(row.text).items():
        first, last = len(row.text[:start].encode()), len(row.text[:stop].encode())
        inside = [
            logprob
            for logprob, end, piece in zip(row.logprobs, ends, pieces)
            if end > first and end - len(piece) < last and piece
        ]
        if inside and all(map(math.isfinite, inside)):
            found[name] = sum(inside)
    return found
