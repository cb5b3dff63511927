"""Everything a training run needs before its first step."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from ..adapter_config import read_adapter_config
from ..adapters import AdapterArgs, adapter_shapes, init_adapter
from ..backend import Backend, OptimizerArgs, load_backend
from ..batches import ExampleMaker
from ..catalogue import Catalogue, Split
from ..checkpoint.fingerprint import base_fingerprint
from ..checkpoint.hub import resolve_model
from ..config import load_model_config
from ..errors import UserError
from ..flags import own_flag
from ..loader import BatchLoader
from ..progress import note, say
from ..prompts import PromptProcessor
from ..ranks import TimeLimit, require_agreement
from ..trained_task import TrainedTask
from . import resume
from .checkpoints import Checkpoints
from .feature_cache import FeatureCache
from .init_adapter import choose_num_crops, load_init_adapter
from .long_rows import ShortRows, short_rows
from .memory_limit import Passes, choose_passes
from .row_lengths import measure_rows
from .row_order import RowOrder, total_steps
from .train_config import TrainConfig, as_json
from .train_state import TrainState

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setup:
    """A run that is ready for its next step. total: its optimiser steps. leads: this rank writes. limit: of its waiting."""

    config: TrainConfig
    backend: Backend
    adapter: AdapterArgs
    task: TrainedTask
    checkpoints: Checkpoints
    state: TrainState
    order: RowOrder
    passes: Passes
    total: int
    training: BatchLoader
    validation: BatchLoader | None
    validation_rows: Sequence[int]
    cache: FeatureCache | None
    leads: bool
    limit: TimeLimit


def set_up(config: TrainConfig) -> Setup:
    """Load model, data and, with --resume, the last checkpoint. Raises UserError if any of these do not fit each other."""
    checkpoints = Checkpoints(config.output)
    saved = _read_checkpoint(config, checkpoints)
    base = _load_base(config, resumed=saved is not None)
    if saved:
        config = resume.adopt(config, saved.state)
        resume.require_same(config, saved.state, base.catalogue.fingerprint, base.fingerprint)
    config, adapter, tensors = _choose_adapter(config, base, resumed=saved is not None)
    if saved:
        checkpoints.require_whole(adapter_shapes(base.backend.config, adapter).tensors, saved.tensors, saved.optimizer)
    short = _measure(config, base)
    passes = choose_passes(config, base.backend, adapter, short.lengths)
    cache = _open_feature_cache(config, base, adapter)
    order = _choose_order(config, base, saved, short)
    state, total = _go_on(config, base, saved, order, passes) if saved else _begin(config, base, order)
    _start_backend(config, base.backend, adapter, tensors, passes)
    if saved:
        base.backend.load_training(saved.tensors, saved.optimizer, state.step)
    training, validation = _open_loaders(config, base, cache)
    validation_rows = _validation_rows(config, base, validation)
    validation = validation if validation_rows else None
    task = TrainedTask(base.catalogue.task, base.maker.num_crops, base.backend.dtype)
    leads = base.backend.world()[0] == 0
    limit = _agree(base.backend, _facts(config, base, tensors, passes, order, state), config.rank_timeout, checkpoints)
    return Setup(
        config, base.backend, adapter, task, checkpoints, state, order, passes, total,
        training, validation, validation_rows, cache, leads, limit,
    )  # fmt: skip


@dataclass(frozen=True)
class _Saved:
    """The last checkpoint of a run."""

    state: TrainState
    tensors: Tensors
    optimizer: Tensors


def _read_checkpoint(config: TrainConfig, checkpoints: Checkpoints) -> _Saved | None:
    if checkpoints.newest() is None:
        checkpoints.require_room(None)
        return None
    if not config.resume:
        raise UserError(f"{config.output} holds a training run; add --resume to go on with it, or choose another --output")
    saved = _Saved(*checkpoints.load())
    checkpoints.require_room(saved.state)
    # Against its own adapter's configuration, before the minutes that a model takes to load; afterwards against the run's.
    folder = resolve_model(config.model)
    newest = checkpoints.newest()
    if newest and base_fingerprint(folder) == saved.state.base_fingerprint:
        shapes = adapter_shapes(load_model_config(folder), read_adapter_config(newest))
        checkpoints.require_whole(shapes.tensors, saved.tensors, saved.optimizer)
    return saved


@dataclass(frozen=True)
class _Base:
    """The model and the catalogue. fingerprint: the model's."""

    catalogue: Catalogue
    split: Split
    backend: Backend
    fingerprint: str
    maker: ExampleMaker


def _load_base(config: TrainConfig, *, resumed: bool) -> _Base:
    catalogue = Catalogue(config.data)
    split, folder = catalogue.split("train"), resolve_model(config.model)
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    backend = load_backend(config.backend, folder, dtype=config.dtype, rank_timeout=config.rank_timeout)
    num_crops = choose_num_crops(config, backend.config, resumed=resumed)
    maker = ExampleMaker(PromptProcessor(folder), backend.config, catalogue.task, num_crops, config.max_length)
    return _Base(catalogue, split, backend, base_fingerprint(folder), maker)


def _choose_adapter(config: TrainConfig, base: _Base, *, resumed: bool) -> tuple[TrainConfig, AdapterArgs, Tensors]:
    """The settings with rank, alpha and targets filled in, the adapter's configuration, and the tensors it starts from."""
    model = base.backend.config
    if config.init_adapter is None:
        config = config.with_lora_defaults()
        return config, config.adapter(), init_adapter(model, config.adapter(), config.seed)
    # A run that has begun needs its first adapter no more.
    path = str(Checkpoints(config.output).newest()) if resumed else config.init_adapter
    filled, adapter, tensors = load_init_adapter(replace(config, init_adapter=path), model, base.fingerprint)
    return replace(filled, init_adapter=config.init_adapter), adapter, tensors


def _measure(config: TrainConfig, base: _Base) -> ShortRows:
    """The train rows that are short enough, measured where a setting needs their lengths or one may be too long."""
    leads = base.backend.world()[0] == 0
    lengths = None
    if config.memory_limit is not None or config.group_by_length:
        measured = measure_rows(base.split, base.maker, as_json=config.json and leads)
        if config.memory_limit is not None:
            measured.require_readable(base.split)
        lengths = measured.lengths(base.maker.num_crops, base.maker.config.vision)
    return short_rows(
        base.split, base.maker, skip=config.skip_long, lengths=lengths, as_json=config.json and leads, leads=leads
    )


def _open_feature_cache(config: TrainConfig, base: _Base, adapter: AdapterArgs) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    if adapter.trains_image_side(base.backend.config):
        raise UserError(
            "--feature-cache caches what the image side computes, and this run trains that; leave the flag out, or add "
            "--vision off --projector off --separators off"
        )
    return FeatureCache(config.feature_cache, base.backend, base.maker.num_crops, config.feature_cache_gb)


def _choose_order(config: TrainConfig, base: _Base, saved: _Saved | None, short: ShortRows) -> RowOrder:
    batch_size, accumulation = resume.drawn(config, saved.state if saved else None)
    tokens = short.lengths.tokens if short.lengths and config.group_by_length else None
    rows = len(base.split) if short.numbers is None else len(short.numbers)
    return RowOrder(rows, batch_size, accumulation, config.seed, tokens, short.numbers)


def _begin(config: TrainConfig, base: _Base, order: RowOrder) -> tuple[TrainState, int]:
    """A run before its first step, and its steps."""
    settings = {**as_json(config), "batch_size": order.batch_size, "grad_accumulation_steps": order.accumulation}
    state = TrainState(0, config.seed, None, None, settings, base.catalogue.fingerprint, base.fingerprint)
    return state, total_steps(config, order.rows)


def _go_on(config: TrainConfig, base: _Base, saved: _Saved, order: RowOrder, passes: Passes) -> tuple[TrainState, int]:
    """The saved state under the present settings, and the run's steps; reports what they change."""
    total, change = resume.new_total(config, saved.state, order.rows)
    changes = [change] if change else []
    if config.lora_dropout and passes.rows != order.batch_size:
        changes.append(
            f"--resume: passes of {passes.rows} rows instead of {order.batch_size} draw other dropout masks; all else stays"
        )
    for change in changes if base.backend.world()[0] == 0 else ():
        note(change)
    return replace(saved.state, settings=_begin(config, base, order)[0].settings), total


def _start_backend(config: TrainConfig, backend: Backend, adapter: AdapterArgs, tensors: Tensors, passes: Passes) -> None:
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(
        OptimizerArgs((config.adam_betas[0], config.adam_betas[1]), config.adam_eps, config.weight_decay, config.reduce_dtype),
        grad_checkpoint=passes.grad_checkpoint,
        compiled=config.compile,
        memory=None if config.memory_limit is None else int(config.memory_limit * 1e9),
    )


def _open_loaders(config: TrainConfig, base: _Base, cache: FeatureCache | None) -> tuple[BatchLoader, BatchLoader | None]:
    """The train split and, where it is to be used, the validation split."""
    maker, world = base.maker, base.backend.world()
    if cache:
        maker = ExampleMaker(maker.prompts, maker.config, maker.task, maker.num_crops, config.max_length, cache.image)
    validation = None
    if config.val_rows > 0 and base.catalogue.info["splits"].get("validation", {}).get("rows"):
        validation = BatchLoader(base.catalogue.split("validation"), maker, cache, world)
    return BatchLoader(base.split, maker, cache, world), validation


def _validation_rows(config: TrainConfig, base: _Base, validation: BatchLoader | None) -> Sequence[int]:
    """The first validation rows, those left out that are too long."""
    if validation is None:
        return range(0)
    rows = range(min(config.val_rows, len(validation.split)))
    leads = base.backend.world()[0] == 0
    short = short_rows(
        validation.split, base.maker, skip=config.skip_long, first=len(rows), as_json=config.json and leads, leads=leads
    )
    return rows if short.numbers is None else [int(row) for row in short.numbers]


def _agree(backend: Backend, facts: dict[str, object], seconds: float, checkpoints: Checkpoints) -> TimeLimit:
    """Compare the facts of all ranks; the limit of this one's waiting for the others, from then on too."""
    rank, ranks = backend.world()

    def sentence() -> str:
        saved = checkpoints.newest()
        good = f"the last checkpoint is {saved}; start all again with --resume" if saved else "no checkpoint was written yet"
        return f"rank {rank} waited {seconds:g} s for the others, of which one hangs or is gone; {good}"

    limit = TimeLimit(seconds if ranks > 1 else math.inf, sentence)
    with limit.waiting():
        require_agreement(backend, facts)
    return limit


def _facts(
    config: TrainConfig, base: _Base, tensors: Tensors, passes: Passes, order: RowOrder, state: TrainState
) -> dict[str, object]:
    """What every rank must have in common, by the names that a message gives them. Paths may differ."""
    start = 0
    for name in sorted(tensors):
        start = zlib.crc32(np.ascontiguousarray(tensors[name]).tobytes(), zlib.crc32(name.encode(), start))
    paths = {"model", "init_adapter"}
    settings = {own_flag(f): getattr(config, f.name) for f in fields(config) if f.name not in {*resume.FREE, *paths}}
    return settings | {
        "the model": base.fingerprint,
        "the catalogue": base.catalogue.fingerprint,
        "the rows that are short enough": order.rows,
        "the rows of a pass": passes.rows,
        "the adapter it starts from": start,
        "the step it goes on from": state.step,
        "the dtype": base.backend.dtype,
    }
