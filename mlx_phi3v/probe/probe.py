"""Make the probe of a model folder, and check a loaded model with one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from .. import __version__
from ..backend import Backend
from ..batches import Example, ExampleMaker, collate
from ..checkpoint.headers import read_tensors
from ..checkpoint.layout import expected_tensors
from ..config import load_model_config
from ..crops import process_image
from ..decoding import LoadedModel, extended, generate, load_model, log_softmax
from ..errors import UserError
from ..files import sha256_file, write_json
from ..photo import Photo
from ..progress import note
from ..task import Task
from .probe_file import PROBE_FILE, TOLERANCE, Case, Gap, Probe, probe_json, read_probe

# (picture, most crops): one view; two crops beside each other; two below each other.
_ASKED = (("probe-1.png", 1), ("probe-2.png", 2), ("probe-3.png", 2))
_TOKENS = 8
_ROOM = 1e9  # bytes that photos, cache and interpreter take beside the weights
_SHARE = 0.8  # of the machine's memory


def make_probe(folder: Path, *, base: str | None = None, adapter: str | None = None, name: Path | None = None) -> Probe | None:
    """Write pictures and `probe.json` into a model folder, and return it; None where the model does not fit into memory.

    base, adapter: of a fused model, what it was fused of: how far the two are apart is recorded. name: what the folder will
    be called, for messages.
    """
    need, memory = _memory_needed(folder), _memory()
    if need > _SHARE * memory:
        note(
            f"no probe was written into {name or folder}: the model takes about {need / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB; --no-probe leaves it out"
        )
        return None
    for picture, _ in _ASKED:
        shutil.copyfile(Path(__file__).parent / picture, folder / picture)
    model = load_model(str(folder), "mlx")
    prompt = (model.trained.task if model.trained else Task()).prompt
    cases = [_answered(model, folder, picture, crops, prompt) for picture, crops in _ASKED]
    probe = Probe(
        schema=1, version=__version__, backend="mlx", dtype=model.backend.dtype, tolerance_nats=TOLERANCE, cases=cases
    )  # fmt: skip
    del model
    if base is not None:
        apart = verify(load_model(base, "mlx", adapter), probe, folder)
        probe = msgspec.structs.replace(probe, source_gap_nats=apart.nats)
    write_json(folder / PROBE_FILE, probe_json(probe))
    return probe


def verify_folder(model: LoadedModel) -> Gap:
    """The gap of a loaded model to the probe of its folder. Raises UserError where there is none, or an adapter is on it."""
    if model.adapter is not None:
        raise UserError(f"--verify checks {model.folder} as it is; leave out --adapter")
    return verify(model, read_probe(model.folder), model.folder)


def verify(model: LoadedModel, probe: Probe, pictures: Path) -> Gap:
    """How far a loaded model's log-probabilities are from those of `probe`, whose pictures are in the folder `pictures`."""
    worst, where, tokens = 0.0, "", 0
    for case in probe.cases:
        question = _question(model, pictures / case.picture, case.num_crops, case.prompt)
        gaps = np.abs(_scores(model.backend, question, case.token_ids) - np.array(case.logprobs))
        tokens += len(gaps)
        if not where or gaps.max() > worst:
            worst, where = float(gaps.max()), f"token {int(gaps.argmax()) + 1} of {case.picture}"
    dtypes = {probe.dtype, model.backend.dtype}
    tolerance = max(probe.tolerance_nats.get(dtype, TOLERANCE["bfloat16"]) for dtype in dtypes)
    return Gap(worst, tolerance, tokens, len(probe.cases), where)


def _answered(model: LoadedModel, folder: Path, picture: str, crops: int, prompt: str) -> Case:
    """What the model answers about a picture, greedily."""
    question = _question(model, folder / picture, crops, prompt)
    stops = model.prompts.stop_ids
    [answer] = generate(model.backend, [question], max_new_tokens=_TOKENS, stop_ids=stops)
    logprobs = _scores(model.backend, question, answer.token_ids)
    return Case(
        picture=picture,
        sha256=sha256_file(folder / picture),
        num_crops=crops,
        prompt=prompt,
        token_ids=answer.token_ids,
        logprobs=[min(round(float(value), 7), 0.0) for value in logprobs],
    )


def _question(model: LoadedModel, picture: Path, num_crops: int, prompt: str) -> Example:
    maker = ExampleMaker(model.prompts, model.backend.config, model.task, num_crops)
    return maker.from_images(picture.name, (process_image(Photo.read(picture).rgb, num_crops),), None, prompt)


def _scores(backend: Backend, question: Example, tokens: Sequence[int]) -> np.ndarray:
    """Natural-log probabilities of `tokens`, each after the prompt and those before it: fp64 [tokens]."""
    start = len(question.input_ids)
    example = replace(question)
    for token in tokens:
        example = extended(example, token)
    logits = backend.forward(collate([example], backend.config), logits_from=start - 1).logits[0, :-1]
    found: np.ndarray = log_softmax(logits)[np.arange(len(tokens)), np.array(tokens)]
    return found


def _memory_needed(folder: Path) -> float:
    """Bytes: on a CPU weights become fp32, on a Mac's GPU they stay as they are stored."""
    if sys.platform == "darwin":
        return sum(info.size for info in read_tensors(folder).values()) + _ROOM
    return 4 * sum(map(prod, expected_tensors(load_model_config(folder)).values())) + _ROOM


def _memory() -> int:
    import psutil  # no other command needs it

    return int(psutil.virtual_memory().total)
