"""What a comparison may claim. Three claims, never mixed:

computation  one adapter on two backends, dtypes or bits: do they compute the same? The log-probabilities answer, before the
             answers diverge; a few hundred rows are enough.
adapters     two adapters: is one as good as the other? It says nothing of the ways they were trained: another seed makes
             another adapter.
training     several trainings a side (`compare_sets`): is one way to train as good as the other?
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..runs.run import Run
from .comparable import RunDifference
from .divergence import NEAR_TIE, NOT_RECORDED, PARSE_ONLY, SCORE_ONLY
from .noise import Floor, LogitNoise

Kind = Literal["computation", "adapters", "repeat", "training"]
_COMPUTATION = ("backend", "dtype", "quantization", "attn_implementation", "kv_bits")
_NOT_OF_THE_MODEL = (SCORE_ONLY, PARSE_ONLY)
# Rows that rounding parts, but by more than a near-tie: 2 of 34 on the tiny model in bf16, torch against MLX.
_FEW, _FEW_ROWS = 0.2, 2


@dataclass(frozen=True)
class Claim:
    """The claim that was tested.

    scope: what the first line says of it, "" for nothing. answer: of `computation`, whether both compute the same; None
    where too little was recorded, and of other claims, which the verdict answers.
    """

    kind: Kind
    scope: str
    sentence: str
    answer: bool | None = None


def claim_of_runs(
    run_a: Run, run_b: Run, differences: Collection[RunDifference], noise: LogitNoise, floors: Sequence[Floor],
    causes: Mapping[str, int],
) -> Claim:  # fmt: skip
    """The claim that two runs support. causes: of each, how many rows diverge."""
    a, b = (run.manifest.get("hashes") or {} for run in (run_a, run_b))
    key = "adapter" if a.get("adapter") or b.get("adapter") else "base"
    changed = [item for item in differences if item.name in _COMPUTATION]
    other_base = a.get("base") and b.get("base") and a["base"] != b["base"]  # it stays the same when a model is converted
    if a.get(key) and a.get(key) == b.get(key) and not other_base:
        if not changed:
            return Claim("repeat", "", "")
        one = f"One {'adapter' if key == 'adapter' else 'model'}, {'; '.join(map(str, changed))}."
        answer, why = _same_computation(noise, floors, causes)
        said = "not answered" if answer is None else "yes" if answer else "no"
        return Claim("computation", f"same computation: {said}", f"Claim: same computation. {one} {why}: {said}.", answer)
    if not a.get(key) and not b.get(key):
        what = "runs"
    else:
        what = "adapters" if a.get("adapter") and b.get("adapter") and not other_base else "models"
    return Claim(
        "adapters", f"these two {what} only",
        f"Claim: B is as good as A, of these two {what} only. Another seed makes another adapter: to compare ways to train, "
        "give several trainings a side (--a RUN... --b RUN...).",
    )  # fmt: skip


def _same_computation(
    noise: LogitNoise, floors: Sequence[Floor], causes: Mapping[str, int]
) -> tuple[bool | None, str]:  # fmt: skip
    """(whether both compute the same, why): the noise before the answers diverge, and where they diverge."""
    diverged = sum(rows for cause, rows in causes.items() if cause not in _NOT_OF_THE_MODEL)
    other = diverged - causes.get(NEAR_TIE, 0)
    rows = f"{diverged:,} answers diverge, {other:,} of them otherwise than at a near-tie"
    if noise.median is None:
        return None, f"Too few log-probabilities were recorded where the answers agree; {rows}"
    why = (
        f"Where the answers agree, the logits differ by {noise.median:.2g} nats in the median ({noise.tokens:,} tokens), "
        f"{'no more' if noise.rounding else 'more'} than rounding (up to {noise.most:g}); {rows}"
    )
    why += "".join(
        f"; the log-probability gap is {item.times_mean:.3g} times the noise floor {item.label}"
        for item in floors
        if item.times_mean is not None
    )
    few = max(_FEW_ROWS, _FEW * diverged)
    if other > few >= other - causes.get(NOT_RECORDED, 0) and noise.rounding:
        return None, f"{why}; too little was recorded to tell why"
    return noise.rounding and other <= few, why


def claim_of_trainings(a: int, b: int, seeds: Sequence[int] | None) -> Claim:
    """The claim of `a` and `b` trainings; seeds: by which they are paired, None where they are not."""
    count = f"{a} trainings a side" if a == b else f"{a} and {b} trainings"
    how = "not paired" if seeds is None else f"paired by seed ({', '.join(map(str, seeds))})"
    return Claim(
        "training", count,
        f"Claim: as good a training. {count}, {how}; products and seeds are both sources of variation.",
    )  # fmt: skip
