"""Why two answers for one row diverge: one cause a row, from the recorded inputs, tokens and log-probabilities.

The first of these that holds:
- score only:             the same answer, parsed to the same values, but another true value
- parse only:             the same answer, parsed to other values
- pixels:                 the model saw other pixels; the detail names the first stage that diverges
- token ids:              the model was given other token ids
- sampling:               answers were drawn, not greedy: nothing to explain
- near-tie:               at the first differing token both runs gave the two tokens almost equal log-probabilities
- length or end token:    one answer ended where the other went on
- log-probability gap:    the runs disagree by more than a near-tie: the models differ
- not recorded:           a run has too few tokens or log-probabilities to find the cause
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_phi3v.task import ParsedField

from ..runs.columns import STAGES
from ..runs.prediction import Prediction

SCORE_ONLY = "score only"
PARSE_ONLY = "parse only"
PIXELS = "pixels"
TOKEN_IDS = "token ids"
SAMPLING = "sampling"
NEAR_TIE = "near-tie"
END = "length or end token"
GAP = "log-probability gap"
NOT_RECORDED = "not recorded"
CAUSES = (PIXELS, TOKEN_IDS, GAP, END, NEAR_TIE, SAMPLING, PARSE_ONLY, SCORE_ONLY, NOT_RECORDED)

# Two steps of bf16 at logits of 16 to 32 make 0.25 nats; fp32 sums in another order differ by far less than 0.01.
NEAR_TIE_NATS = {"float32": 0.01, "other": 0.25}


@dataclass(frozen=True)
class Divergence:
    """Where and why one row's answers diverge. `position` counts tokens from 0; `margin` is in nats."""

    cause: str
    detail: str
    position: int | None = None
    margin: float | None = None


def near_tie_nats(manifest_a: Mapping[str, Any], manifest_b: Mapping[str, Any]) -> float:
    """The widest margin called a near-tie, by the coarser of the two runs' dtypes (unknown counts as coarse)."""
    dtypes = [
        str((m.get("settings") or {}).get("dtype") or (m.get("device") or {}).get("dtype") or "").removeprefix("torch.")
        for m in (manifest_a, manifest_b)
    ]
    return NEAR_TIE_NATS["float32" if all(dtype in ("float32", "fp32") for dtype in dtypes) else "other"]


def explain_divergence(a: Prediction, b: Prediction, *, near_tie: float, sampled: bool = False) -> Divergence:
    """The cause for which two predictions of one row diverge.

    Args:
        near_tie: widest margin in nats called a near-tie.
        sampled: whether answers were drawn at a temperature above 0.
    """
    tokens_a, tokens_b = a.token_ids, b.token_ids
    same_answer = a.text == b.text and a.text is not None and (not tokens_a or not tokens_b or tokens_a == tokens_b)
    if same_answer:
        if a.predicted != b.predicted:
            return Divergence(PARSE_ONLY, "the same answer, parsed differently")
        return Divergence(SCORE_ONLY, "the same answer, other true values: " + _differing(a.true, b.true))
    if found := _input_cause(a.fingerprints, b.fingerprints):
        return found
    if not tokens_a or not tokens_b:
        return Divergence(NOT_RECORDED, "a run recorded no token ids")
    if tokens_a == tokens_b:
        return Divergence(PARSE_ONLY, "the same tokens, decoded to other text")
    if sampled:
        return Divergence(SAMPLING, "the temperature is not 0")
    return _token_cause(a, b, near_tie)


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
    "pixels": "the file is the same, its decoded pixels differ: another image decoder",
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


def _token_cause(a: Prediction, b: Prediction, near_tie: float) -> Divergence:
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
    if margin is not None and exact_a and exact_b and margin <= near_tie:
        return Divergence(NEAR_TIE, shown, k, margin)
    ends = [row.finish == "end" and k == len(row.token_ids) - 1 for row in (a, b)]
    if any(ends):
        who = "both" if all(ends) else "A" if ends[0] else "B"
        return Divergence(END, f"{who} ended; {shown}", k, margin)
    if margin is not None and margin > near_tie:
        return Divergence(GAP, shown, k, margin)
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
