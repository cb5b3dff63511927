"""Why two answers for one row diverge, from the recorded inputs, tokens and log-probabilities.

All causes that hold are listed; the first of them is the row's cause:
- score only:             the same answer, parsed to the same values, but another true value
- parse only:             the same answer, parsed to other values
- misjoined:              the answer is that of the row beside it in the other run (see `misjoined`)
- case or Unicode form:   the answers differ in capitals or in how a letter is encoded, and in nothing else
- not its first choice:   a run did not take the token that it held likeliest: its answers were drawn, or its choice is wrong
- pixels:                 the model saw other pixels; the detail names the first stage that diverges
- token ids:              the model was given other token ids
- sampling:               answers were drawn, not greedy: nothing to explain
- near-tie:               at the first differing token both runs gave the two tokens almost equal log-probabilities, and before
                          it the runs differ by no more than rounding
- length or end token:    one answer ended where the other went on
- log-probability gap:    the runs disagree by more than a near-tie: the models differ
- not recorded:           a run has too few tokens or log-probabilities to find the cause

Other pixels do not acquit the models: where the weights or the adapter are known to differ too, a gap comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_phi3v.task import ParsedField

from ..runs.columns import STAGES
from ..runs.prediction import Prediction
from .spelling import alike

SCORE_ONLY = "score only"
PARSE_ONLY = "parse only"
MISJOINED = "misjoined"
SPELLING = "case or Unicode form"
NOT_FIRST = "not its first choice"
PIXELS = "pixels"
TOKEN_IDS = "token ids"
SAMPLING = "sampling"
NEAR_TIE = "near-tie"
END = "length or end token"
GAP = "log-probability gap"
NOT_RECORDED = "not recorded"
CAUSES = (MISJOINED, SPELLING, NOT_FIRST, PIXELS, TOKEN_IDS, GAP, END, NEAR_TIE, SAMPLING, PARSE_ONLY, SCORE_ONLY, NOT_RECORDED)

# Two steps of bf16 at logits of 16 to 32 make 0.25 nats; fp32 sums in another order differ by far less than 0.01.
NEAR_TIE_NATS = {"float32": 0.01, "other": 0.25}
_SAME_NATS = 1e-4  # two tokens that tie are both first


@dataclass(frozen=True)
class Divergence:
    """Where and why one row's answers diverge. `position` counts tokens from 0; `margin` is in nats."""

    cause: str
    detail: str
    position: int | None = None
    margin: float | None = None
    causes: tuple[str, ...] = ()  # all that hold, `cause` first


def near_tie_nats(manifest_a: Mapping[str, Any], manifest_b: Mapping[str, Any]) -> float:
    """The widest margin called a near-tie, by the coarser of the two runs' dtypes (unknown counts as coarse)."""
    dtypes = [
        str((m.get("settings") or {}).get("dtype") or (m.get("device") or {}).get("dtype") or "").removeprefix("torch.")
        for m in (manifest_a, manifest_b)
    ]
    return NEAR_TIE_NATS["float32" if all(dtype in ("float32", "fp32") for dtype in dtypes) else "other"]


def explain_divergence(
    a: Prediction, b: Prediction, *, near_tie: float, sampled: bool = False, rounding: bool = True, other_model: bool = False
) -> Divergence:  # fmt: skip
    """The causes for which two predictions of one row diverge.

    Args:
        near_tie: widest margin in nats called a near-tie.
        sampled: whether answers were drawn at a temperature above 0.
        rounding: whether the two runs differ by no more than rounding where their answers still agree.
        other_model: whether the runs are known to have other weights or another adapter.
    """
    if _same_answer(a, b):
        if a.predicted != b.predicted:
            return _only(Divergence(PARSE_ONLY, "the same answer, parsed differently"))
        return _only(Divergence(SCORE_ONLY, "the same answer, other true values: " + _differing(a.true, b.true)))
    tokens = _token_divergence(a, b, near_tie, sampled, rounding)
    inputs = _input_cause(a.fingerprints, b.fingerprints)
    found = [item for item in (_spelling_cause(a, b), inputs, tokens) if item is not None]
    if inputs and tokens.cause == GAP and other_model:
        found = [tokens, inputs]
    if tokens.cause == NOT_FIRST:
        found.insert(0, found.pop())
    if len(found) > 1 and found[-1].cause == NOT_RECORDED:
        found.pop()
    causes = tuple(dict.fromkeys(item.cause for item in found))
    also = "".join(f"; also {item.cause}: {item.detail}" for item in found[1:])
    return replace(found[0], detail=found[0].detail + also, position=tokens.position, margin=tokens.margin, causes=causes)


def _only(found: Divergence) -> Divergence:
    return replace(found, causes=(found.cause,))


def _same_answer(a: Prediction, b: Prediction) -> bool:
    tokens_a, tokens_b = a.token_ids, b.token_ids
    return a.text == b.text and a.text is not None and (not tokens_a or not tokens_b or tokens_a == tokens_b)


def _token_divergence(a: Prediction, b: Prediction, near_tie: float, sampled: bool, rounding: bool) -> Divergence:
    """What the two answers' tokens show."""
    if not a.token_ids or not b.token_ids:
        return Divergence(NOT_RECORDED, "a run recorded no token ids")
    if a.token_ids == b.token_ids:
        return Divergence(PARSE_ONLY, "the same tokens, decoded to other text")
    if sampled:
        return Divergence(SAMPLING, "the temperature is not 0")
    k = first_difference(a.token_ids, b.token_ids)
    others = [name for name, row in (("A", a), ("B", b)) if not _took_its_first_choice(row, k)]
    if others:
        found = _token_cause(a, b, near_tie, rounding)
        return replace(
            found, cause=NOT_FIRST, detail=f"{' and '.join(others)} did not take its own first choice; {found.detail}"
        )
    return _token_cause(a, b, near_tie, rounding)


def _took_its_first_choice(row: Prediction, k: int) -> bool:
    """Whether token k is the likeliest that the run lists there; True where it is not recorded."""
    if k >= min(len(row.token_ids), len(row.logprobs), len(row.top_k)) or not row.top_k[k]:
        return True
    return max(logprob for _, logprob in row.top_k[k]) <= row.logprobs[k] + _SAME_NATS


def _spelling_cause(a: Prediction, b: Prediction) -> Divergence | None:
    """Whether the answers' fields differ in case or Unicode form and in nothing else."""
    names = [name for name in sorted(set(a.predicted) | set(b.predicted)) if a.predicted.get(name) != b.predicted.get(name)]
    pairs = [(a.predicted.get(name), b.predicted.get(name)) for name in names]
    if not pairs or not all(x and y and x.status == y.status == "ok" and alike(x.value, y.value) for x, y in pairs):
        return None
    return Divergence(SPELLING, "differ in case or Unicode form only: " + ", ".join(names))


def as_misjoined() -> Divergence:
    """The divergence of a row that holds the answer of another row."""
    return Divergence(MISJOINED, "the answer is that of another row", None, None, (MISJOINED,))


def fields_parsed_differently(a: Prediction, b: Prediction) -> str:
    """The fields with other values in A and B: "full_price 120.0 | (missing)"; empty where there is none."""
    return _differing(a.predicted, b.predicted)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    names = [name for name in sorted(set(a) | set(b)) if a.get(name) != b.get(name)]
    return "; ".join(f"{name} {_plain(a.get(name))} | {_plain(b.get(name))}" for name in names)


def _plain(value: Any) -> str:
    if isinstance(value, ParsedField):
        return str(value.value) if value.status == "ok" else f"({value.status})"
    return str(value)


def first_input_stage(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first input stage that differs, of those both rows recorded."""
    return next((stage for stage in STAGES if a.get(stage) and b.get(stage) and a[stage] != b[stage]), None)


_STAGE_DETAILS = {
    "file": "the photo's file differs",
    "pixels": "the file is the same, its decoded pixels differ",
    "pixel_values": "the decoded pixels are the same, the model's pixel values differ: resize, crop order or scaling",
}


def _input_cause(a: Mapping[str, Any], b: Mapping[str, Any]) -> Divergence | None:
    # The last recorded stage of the photo is what the model saw: another file with the same pixels explains nothing.
    shown = next((stage for stage in reversed(STAGES[:3]) if a.get(stage) and b.get(stage)), None)
    if shown and a[shown] != b[shown]:
        stage = first_input_stage(a, b) or shown
        return Divergence(PIXELS, _STAGE_DETAILS[stage])
    if a.get("input_ids") and b.get("input_ids") and a["input_ids"] != b["input_ids"]:
        return Divergence(TOKEN_IDS, "the pixels are the same, the prompt's token ids differ: prompt or tokenizer")
    return None


def first_difference(a: list[int], b: list[int]) -> int:
    """Index of the first differing token; the shorter list's length where it is the beginning of the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _token_cause(a: Prediction, b: Prediction, near_tie: float, rounding: bool) -> Divergence:
    tokens_a, tokens_b = a.token_ids, b.token_ids
    k = first_difference(tokens_a, tokens_b)
    if k == min(len(tokens_a), len(tokens_b)):
        shorter, row = ("A", a) if len(tokens_a) < len(tokens_b) else ("B", b)
        why = "hit its length limit" if row.finish == "length" else "ended"
        return Divergence(END, f"{shorter} {why} after {k} tokens, the other went on", k)
    margin_a, exact_a = _margin(a, k, tokens_b[k])
    margin_b, exact_b = _margin(b, k, tokens_a[k])
    margins = [margin for margin in (margin_a, margin_b) if margin is not None]
    margin = max(margins, default=None)
    shown = f"token {k}: A {tokens_a[k]} | B {tokens_b[k]}"
    if margin is not None:
        shown += f"; A by {_nats(margin_a, exact_a)}, B by {_nats(margin_b, exact_b)}"
    close = margin is not None and exact_a and exact_b and margin <= near_tie
    if close and rounding:
        return Divergence(NEAR_TIE, shown, k, margin)
    ends = [row.finish == "end" and k == len(row.token_ids) - 1 for row in (a, b)]
    if any(ends):
        who = "both" if all(ends) else "A" if ends[0] else "B"
        return Divergence(END, f"{who} ended; {shown}", k, margin)
    if margin is not None and (margin > near_tie or close):
        before = "" if rounding else "; before it the runs differ by more than rounding"
        return Divergence(GAP, shown + before, k, margin)
    return Divergence(NOT_RECORDED, f"{shown}; too few log-probabilities were recorded", k, margin)


def _nats(margin: float | None, exact: bool) -> str:
    return "unknown" if margin is None else f"{'' if exact else 'at least '}{margin:.4g} nats"


def _margin(row: Prediction, k: int, other: int) -> tuple[float | None, bool]:
    """(nats by which `row` prefers its own token k to `other`, whether that is exact; else a lower bound)."""
    logprobs, top_k = row.logprobs, row.top_k
    if k >= len(logprobs) or not math.isfinite(logprobs[k]):
        return None, False
    chosen = float(logprobs[k])
    bounds = []
    if k < len(top_k) and top_k[k]:
        listed = dict(top_k[k])
        if other in listed:
            return abs(chosen - listed[other]), True
        bounds.append(min(listed.values()))
    # Outside the top k: the other token has at most what the chosen one leaves, and at most the k-th log-probability.
    left = 1 - math.exp(chosen)
    bounds.append(math.log(left) if left > 0 else -math.inf)
    return max(0.0, chosen - min(bounds)) if min(bounds) > -math.inf else math.inf, False
