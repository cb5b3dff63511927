"""A training run foreseen: memory from shapes, time from the speed of matrix products, and what to change so that it fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import calibration
from ..adapters import AdapterArgs
from ..backend import set_up
from ..batches import ExampleMaker
from ..catalogue import Catalogue, ImageSizes
from ..checkpoint.fingerprint import base_fingerprint
from ..checkpoint.hub import resolve_model
from ..config import ModelArgs, Quantization, load_model_config
from ..errors import UserError
from ..prompts import PromptProcessor
from ..task import Task
from ..timing import fastest
from .footprint import INTERPRETER, adapter_parameters, answer_bytes, fit_to_limit, fits, footprint, weight_bytes
from .init_adapter import choose_num_crops, load_init_adapter
from .plan_config import PlanConfig
from .row_lengths import MeasuredRows, measure_rows
from .step_shape import BatchShape, StepSettings, computed, largest_batch, step_settings
from .step_work import machine_speed, step_seconds, step_work

MACS = (8, 16, 32, 64)  # GB of unified memory
# The share of it that Metal lets one process have: `mx.device_info()["max_recommended_working_set_size"]` on Macs.
METAL_SHARE = 0.75
_ANSWER = {"title": "Check Wool Cashmere Scarf in Archive Beige", "category3_code": "SCARVES", "full_price": 470.0}


def measure(config: PlanConfig, model: ModelArgs, prompts: PromptProcessor, num_crops: int) -> MeasuredRows:
    """Measure the rows of --data, or the one photo of --photo. Raises UserError if either cannot be used."""
    if config.data is not None:
        if config.photo != type(config).photo:
            raise UserError(
                f"--photo {config.photo} is for where there is no --data, which has photos of its own; leave out one"
            )
        catalogue = Catalogue(config.data)
        split = catalogue.split("train")
        measured = measure_rows(split, ExampleMaker(prompts, model, catalogue.task, num_crops), as_json=config.json)
        measured.require_readable(split)
        return measured
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", config.photo)
    if not match:
        raise UserError(
            f"--photo {config.photo} is not of the form WIDTHxHEIGHT, such as 1600x1200, of at most 999,999 pixels a side"
        )
    size = ImageSizes(np.array([1]), np.array([[int(match[1]), int(match[2])]]))
    return MeasuredRows.of([_ANSWER], size, ExampleMaker(prompts, model, Task(), num_crops))


def matmul_gflops(backend: str = "mlx") -> float:
    """GFLOP/s of an fp32 product of [2048, 3072] and [3072, 3072] here, the best of ten."""
    m, k, n = 2048, 3072, 3072
    if backend == "torch":
        import torch

        a, b = torch.randn(m, k), torch.randn(k, n)

        def once() -> None:
            (a @ b).sum().item()
    else:
        set_up("mlx")
        import mlx.core as mx

        x, y = mx.random.normal((m, k)), mx.random.normal((k, n))
        mx.eval(x, y)

        def once() -> None:
            mx.eval(x @ y)

    return 2 * m * k * n / fastest(once, 10) / 1e9


@dataclass(frozen=True)
class Choice:
    """A smaller run, and the change that makes it smaller."""

    change: str
    model: ModelArgs
    shape: BatchShape
    training: StepSettings


def smaller(
    config: PlanConfig, model: ModelArgs, rows: MeasuredRows, shape: BatchShape, training: StepSettings
) -> Iterator[Choice]:
    """The run as asked for, then with one more change each time, the mildest first."""
    yield Choice("", model, shape, training)
    notes: list[str] = []
    if model.quantization is None and config.backend == "mlx":
        for bits in (8, 4):
            model = replace(model, quantization=Quantization(64, bits))
            notes = [f"a model of {bits} bits (convert -q --q-bits {bits})"]
            yield Choice(notes[0], model, shape, training)
    image_side = config.vision != "off" or config.projector != "off" or config.separators != "off"
    if image_side and config.init_adapter is None:  # an existing adapter decides what is trained
        frozen = replace(config, vision="off", projector="off", separators="off")
        if frozen.language != "off" or frozen.lm_head != "off":
            training = replace(training, adapter=step_settings(frozen).adapter)
            notes.append("--vision off --projector off")
            yield Choice(", ".join(notes), model, shape, training)
    for fewer in (8, 4, 1):
        if fewer < (config.num_crops or model.num_crops):
            shape = largest_batch(rows.lengths(fewer, model.vision), config.batch_size)
            yield Choice(", ".join([*notes, f"--num-crops {fewer}"]), model, shape, training)


def advice(
    config: PlanConfig, model: ModelArgs, rows: MeasuredRows, shape: BatchShape, training: StepSettings, limit: int
) -> str | None:
    """What to change so that the run fits into `limit` bytes: "" for nothing, None where no change helps."""
    for choice in smaller(config, model, rows, shape, training):
        found = fit_to_limit(choice.model, choice.shape, choice.training, limit)
        if found:
            count, checkpointing = found
            flags = [choice.change] if choice.change else []
            flags += ["--grad-checkpoint"] if checkpointing and not config.grad_checkpoint else []
            if count < shape.rows:
                passes = config.grad_accumulation_steps * shape.rows // count
                flags += [f"--batch-size {count} --grad-accumulation-steps {passes}"]
            return ", ".join(flags)
    return None


def choose_adapter(config: PlanConfig, model: ModelArgs, folder: Path) -> tuple[PlanConfig, AdapterArgs]:
    """The settings with rank, alpha and targets filled in, and the adapter. Raises UserError if --init-adapter does not fit."""
    if config.init_adapter is None:
        return config.with_lora_defaults(), config.adapter()
    config, adapter, _ = load_init_adapter(config, model, base_fingerprint(folder))
    return config, adapter


def _answer(model: ModelArgs, context: int, dtype: str, compiled: bool) -> dict[str, Any]:
    """Peak memory of answering a prompt of so many tokens, with cached keys and values as computed and packed."""
    kinds = ((dtype, 0), ("8 bit", 8), ("4 bit", 4))
    return {
        "context": context,
        "answer_gb": {
            name: (answer_bytes(model, context, dtype, bits, compiled=compiled) + INTERPRETER) / 1e9 for name, bits in kinds
        },
    }


def _settings(config: PlanConfig, adapter: AdapterArgs, known: calibration.Calibration | None) -> StepSettings:
    """By default a Mac's GPU computes in bf16, and MLX on a CPU in fp32."""
    on_cpu = config.backend == "mlx" and config.dtype == "float32"
    measured = known.activations if known else None
    settings = step_settings(config, adapter)
    return replace(settings, dtype=config.dtype or "bfloat16", cpu=on_cpu, activations=measured or settings.activations)


def plan(config: PlanConfig) -> dict[str, Any]:
    """All figures of the plan, as JSON has them. Raises UserError for wrong settings."""
    folder = resolve_model(config.model)
    model, prompts = load_model_config(folder), PromptProcessor(folder)
    num_crops = choose_num_crops(config, model)
    config = replace(config, num_crops=num_crops)
    rows = measure(config, model, prompts, num_crops)
    shape = largest_batch(rows.lengths(num_crops, model.vision), config.batch_size)
    config, adapter = choose_adapter(config, model, folder)
    if config.backend == "torch":  # it unpacks packed weights as it loads them
        model = replace(model, quantization=None)
    known = None if config.gflops else calibration.read(config.backend)
    training = _settings(config, adapter, known)
    taken = footprint(model, shape, training)
    gflops = known.gflops if known else config.gflops or matmul_gflops(config.backend)
    reached, work = machine_speed(gflops, known, cpu=training.cpu), step_work(model, shape, training)
    limits = {f"{gb} GB Mac": int(gb * 1e9 * METAL_SHARE) for gb in MACS}
    if config.memory_limit:
        limits = {f"--memory-limit {config.memory_limit:g}": int(config.memory_limit * 1e9)}
    return {
        "model": config.model,
        "backend": config.backend,
        "num_crops": num_crops,
        **asdict(computed(model, shape, training)),
        "foreseen": training.foreseen,
        "parameters": weight_bytes(replace(model, quantization=None), "float32") // 4,
        "trained": adapter_parameters(model, training.adapter),
        "dtype": training.dtype,
        "weights_gb": taken.weights / 1e9,
        "adapter_gb": taken.adapter / 1e9,
        "activations_gb": taken.activations / 1e9,
        "peak_gb": taken.process / 1e9,
        "tflop": work.flops / 1e12,
        "gflops": reached.gflops,
        **_calibrated(known),
        "seconds_per_step": step_seconds(work, reached) * config.grad_accumulation_steps,
        **_answer(model, config.context or model.max_position_embeddings, training.dtype, config.compile),
        "fits": {name: fits(model, shape, training, limit) for name, limit in limits.items()},
        "advice": {name: advice(config, model, rows, shape, training, limit) for name, limit in limits.items()},
    }


def _calibrated(known: calibration.Calibration | None) -> dict[str, str | None]:
    return {"calibrated": known.made if known else None, "calibrated_in": known.dtype if known else None}


def _doubts(figures: dict[str, Any]) -> Iterator[str]:
    """What the figures were measured with, and what was not measured."""
    if figures["calibrated"]:
        yield f"Time and activations as mlx_phi3v.doctor measured them here on {figures['calibrated'][:10]}."
        if figures["calibrated_in"] != figures["dtype"]:
            yield f"They were measured in {figures['calibrated_in']}, not in {figures['dtype']}: the time may be far off."
    if not figures["foreseen"]:
        yield "A compiled step was not measured on an accelerator: it counts as an uncompiled one, padded, with room to spare."
    if figures["backend"] == "torch":
        yield "Memory is that of torch on CUDA; on a CPU torch takes up to 1.5 times as much."


def show(figures: dict[str, Any]) -> None:
    """The plan as a table and the advice below it."""
    console = Console()
    table = Table(
        title=escape(f"A training step of {figures['model']}, {figures['dtype']}"), title_justify="left", show_header=False
    )
    table.add_column("what", width=34)
    table.add_column("how much", justify="right")
    rows = {
        "rows a pass": f"{figures['rows']}",
        "tokens of the longest row": f"{figures['tokens']:,}, of which {figures['labels']} answer",
        f"crops to encode (num_crops {figures['num_crops']})": f"{figures['crops']}",
        "parameters": f"{figures['parameters'] / 1e6:,.1f} million",
        "trained": f"{figures['trained'] / 1e6:,.2f} million",
        "weights": f"{figures['weights_gb']:.2f} GB",
        "adapter and optimiser": f"{figures['adapter_gb']:.2f} GB",
        "activations": f"{figures['activations_gb']:.2f} GB",
        "peak memory, with the interpreter": f"{figures['peak_gb']:.2f} GB",
        f"an answer after {figures['context']:,} tokens": ", ".join(
            f"{gb:.2f} GB" if name == figures["dtype"] else f"{gb:.2f} ({name})" for name, gb in figures["answer_gb"].items()
        ),
        "work": f"{figures['tflop']:.2f} TFLOP",
        f"time, at {figures['gflops']:,.0f} GFLOP/s": f"{figures['seconds_per_step']:.1f} s",
    }
    for row in rows.items():
        table.add_row(*row)
    console.print(table)
    for name, change in figures["advice"].items():
        text = "cannot be made to fit" if change is None else f"fits with {change}" if change else "fits as it is"
        console.print(f"{name}: {text}", highlight=False)
    for text in _doubts(figures):
        console.print(text, style="dim", highlight=False)
    console.print("The batch counted is the largest possible; a Mac's GPU may use three quarters of the memory.", style="dim")
