"""Which tokens of an answer are a field's value, and their log-probability: with the run's tokenizer, where it is here."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.checkpoint.hub import BUILTIN, resolve_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_file
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from mlx_phi3v.value_tokens import TokenTexts
from mlx_phi3v.value_tokens import value_logprobs as answer_logprobs

from ..runs.prediction import Prediction
from ..runs.run import Run

_FILE = "tokenizer.json"


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

    See `mlx_phi3v.value_tokens.value_logprobs`, which this asks.
    """
    return answer_logprobs(row.text or "", row.token_ids, row.logprobs, task, texts)
