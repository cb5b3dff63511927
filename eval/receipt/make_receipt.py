"""Both models answer the same held-out rows; `eval.compare` judges; the receipt is written beside the second one's weights."""

from __future__ import annotations

import datetime
from pathlib import Path

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.checkpoint.fingerprint import stored_fingerprint
from mlx_phi3v.checkpoint.headers import read_tensors
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import scratch_folder, write_json, write_text
from mlx_phi3v.hub.facts import named
from mlx_phi3v.progress import stages
from mlx_phi3v.receipt import DIFFERENT, RECEIPT_FILE, RECEIPT_PAGE, SAME, Measure, Receipt, receipt_json

from ..compare.compare_runs import compare_runs
from ..compare.comparison import Comparison
from ..compare.divergence import NEAR_TIE_NATS
from ..compare.noise import LogitNoise, measure_logit_noise
from ..compare.verdict import EXIT_STATUS
from ..predict.answer_rows import predict
from ..predict.settings import PredictConfig
from ..runs.run import Run
from .page import receipt_page
from .settings import ReceiptConfig
from .weights import WeightCheck, check_weights


def make_receipt(config: ReceiptConfig) -> Receipt:
    """Answer, compare and write; the receipt. Raises UserError where a model, an adapter or the catalogue does not serve."""
    before, after = config.models
    before_folder, after_folder = resolve_model(before, "BEFORE"), resolve_model(after, "AFTER")
    output = config.output or after_folder
    split = _held_out(config)
    weights = WeightCheck(0, [])
    if config.expect == "same":  # before the answers, which take longer
        weights = check_weights(before_folder, config.adapter, after_folder)
    scratch = scratch_folder()
    for name, model, adapter in (("before", before, config.adapter), ("after", after, None)):
        predict(
            PredictConfig(
                config.data, scratch / name, model, adapter, config.backend, config.dtype, split=split, limit=config.rows,
                batch_size=config.batch_size, max_new_tokens=config.max_new_tokens, json=config.json,
            )
        )  # fmt: skip
    with stages() as say:
        runs = [Run.load(scratch / name) for name in ("before", "after")]
        comparison = compare_runs(*runs, seed=config.seed, resamples=config.resamples, breakdown=False, say=say)
    receipt = describe(comparison, weights, after_folder, config, split)
    write_json(output / RECEIPT_FILE, receipt_json(receipt))
    write_text(output / RECEIPT_PAGE, receipt_page(receipt))
    return receipt


def _held_out(config: ReceiptConfig) -> str:
    """The split to answer. Raises UserError where the catalogue has none that was held out."""
    names = Catalogue(config.data).info["splits"]
    if config.split:
        return config.split
    found = next((name for name in ("test", "validation") if name in names), None)
    if found is None:
        raise UserError(f"{config.data} has no split 'test' or 'validation', whose rows were held out; give --split")
    return found


def describe(comparison: Comparison, weights: WeightCheck, after: Path, config: ReceiptConfig, split: str) -> Receipt:
    """The receipt of a comparison."""
    noise = _stored_noise(comparison, after)
    same, _ = comparison.agreement["tokens"]
    verdict = DIFFERENT if weights.wrong else _verdict(comparison, noise, same, config.expect)
    manifest_a, manifest_b = comparison.data.run_a.manifest, comparison.data.run_b.manifest
    hashes = {"base": manifest_a["hashes"]["base"], "adapter": manifest_a["hashes"]["adapter"]}
    hashes |= {"weights": stored_fingerprint(after), "catalogue": manifest_b["hashes"]["catalogue"]}
    name = named(config.models[0]) + (f" with {named(config.adapter)}" if config.adapter else "")
    return Receipt(
        verdict=verdict,
        rows=comparison.joined,
        measures=_measures(comparison),
        gap_nats=comparison.noise.largest,
        before=name,
        after=named(config.models[1]),
        made=datetime.date.today().isoformat(),
        versions={"mlx-phi3v": manifest_b["code"]["version"], **manifest_b["packages"]},
        same_tokens=same,
        catalogue=str(config.data),
        split=split,
        fingerprints={key: value for key, value in hashes.items() if value},
        weights_checked=weights.checked,
        weights_wrong=weights.wrong,
        line=_line(comparison, weights, noise, same, verdict),
    )


def _stored_noise(comparison: Comparison, after: Path) -> LogitNoise:
    """How far the logits are apart, judged by what rounding to the stored dtype of AFTER does, also where fp32 computes."""
    dtypes = {info.dtype for info in read_tensors(after).values()}
    kind = "float32" if dtypes == {"F32"} and comparison.logit_noise.most <= _FINE else "other"
    data = comparison.data
    return measure_logit_noise(data.columns_a, data.columns_b, data.join, coarse=kind == "other", near_tie=NEAR_TIE_NATS[kind])


_FINE = 1e-3  # what counts as rounding where both runs computed in fp32


def _verdict(comparison: Comparison, noise: LogitNoise, same: int, expect: str) -> str:
    """SAME where no answer changed and rounding explains the gap, DIFFERENT where it had to and does not, else the verdict.

    Of few tokens there is no median; then the largest gap must be one that rounding makes.
    """
    largest = comparison.noise.largest or 0.0
    rounding = noise.rounding if noise.median is not None else largest <= noise.near_tie
    if same == comparison.joined and rounding:
        return SAME
    if expect == "same" and not (rounding and comparison.verdict not in ("WORSE", "BETTER")):
        return DIFFERENT
    return comparison.verdict


def exit_status(receipt: Receipt) -> int:
    """0 SAME and EQUIVALENT, 1 DIFFERENT, WORSE and BETTER, 3 INCONCLUSIVE, 4 NOT MEANINGFUL."""
    return {SAME: 0, DIFFERENT: 1, **EXIT_STATUS}[receipt.verdict]


def _measures(comparison: Comparison) -> list[Measure]:
    """Every measure of both models, with the margin of those that decide."""
    margins = {(gate.field, gate.metric): gate.margin for gate in comparison.gates}
    return [
        Measure(
            name=f"{item.field} {item.label}",
            before=item.a,
            after=item.b,
            difference=item.difference,
            low=item.interval[0],
            high=item.interval[1],
            margin=margins.get((item.field, item.metric)),
        )
        for item in comparison.metrics
    ]


def _line(comparison: Comparison, weights: WeightCheck, noise: LogitNoise, same: int, verdict: str) -> str:
    """The receipt in one sentence."""
    rows, gap = comparison.joined, comparison.noise.largest
    apart = f"gap {gap:.1g} nats" if gap is not None else "no log-probabilities to compare"
    tokens = f"{'all' if same == rows else same} {'' if same == rows else 'of '}{rows:,} rows have the same tokens, {apart}"
    if verdict == SAME:
        return f"{SAME}: {tokens}"
    if weights.wrong:
        first = f"{len(weights.wrong)} of {weights.checked} tensors are not what was merged, first {weights.wrong[0]}"
        return f"{DIFFERENT}: {first}; {tokens}"
    if verdict == DIFFERENT:
        if noise.median is None:  # of too few tokens
            return f"{DIFFERENT}: {tokens}, more than rounding explains ({noise.near_tie:g})"
        apart = f"their logits are {noise.median:.2g} nats apart (median), more than rounding explains ({noise.most:g})"
        return f"{DIFFERENT}: {tokens}; {apart}"
    return f"{comparison.first_line}: {_cost(comparison)}; {tokens}"


def _cost(comparison: Comparison) -> str:
    """ "category3_code accuracy -3.1 points (-9.0 to +2.8), ..." of the measures that decide, at 95 %."""
    found = []
    for item in _measures(comparison):
        if item.margin is not None and item.difference is not None:
            known = item.low is not None and item.high is not None
            ends = f" ({100 * (item.low or 0):+.1f} to {100 * (item.high or 0):+.1f})" if known else ""
            found.append(f"{item.name} {100 * item.difference:+.1f} points{ends}")
    return ", ".join(found) or "no row has a true value"
