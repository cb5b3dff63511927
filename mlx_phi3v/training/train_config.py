"""The settings of a training run, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .. import shared_options
from ..backend_names import BACKENDS, Dtype, default_backend
from ..cli import check_ranges, option
from ..errors import UserError
from ..loggers.choice import LOGGERS, PROJECT, chosen
from ..ranges import MAX_BATCH, MAX_CROPS, MAX_GB, MAX_ROWS, MAX_STEPS, MAX_TOKENS, MAX_TRAINING_SEED
from ..schedule import SCHEDULES

if TYPE_CHECKING:
    from ..adapters import AdapterArgs

# The adapter if neither flags nor --init-adapter set it: Microsoft's table, with the image side trained too.
LORA_DEFAULTS: dict[str, Any] = {
    "r": 32,
    "lora_alpha": 16.0,
    "language": "lora",
    "vision": "lora",
    "projector": "lora",
    "separators": "off",
    "lm_head": "off",
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. Defaults follow Microsoft's table for Phi-3-vision (LoRA r 32, alpha 16, lr 2e-4)."""

    data: Path = option(help="catalogue folder, made by data.ingest or data.sample", heading="Model and data")
    output: Path = option(help="folder for checkpoints and log", writes="folder")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    backend: str = option(default_backend(), help="framework to train on", choices=BACKENDS)
    dtype: str | None = shared_options.compute_dtype()
    resume: bool = option(False, help="continue from OUTPUT/last, bit for bit; what only saves memory may change")
    epochs: float = option(
        1.0, help="passes over the training rows", heading="How long and how fast", above=0, at_most=1_000_000
    )
    max_steps: int | None = option(None, help="optimiser steps; wins over epochs", at_least=1, at_most=MAX_STEPS)
    batch_size: int = option(4, help="rows per forward pass, over all ranks", at_least=1, at_most=MAX_BATCH)
    grad_accumulation_steps: int = option(1, help="forward passes per optimiser step", at_least=1, at_most=100_000)
    learning_rate: float = option(2e-4, help="peak learning rate", above=0)
    lr_schedule: str = option("linear", help="after the warm-up", choices=SCHEDULES)
    warmup_steps: int = option(50, help="optimiser steps of linear warm-up", at_least=0, at_most=MAX_STEPS)
    weight_decay: float = option(0.01, help="AdamW's decoupled weight decay", at_least=0)
    adam_betas: tuple[float, ...] = option((0.9, 0.95), help="AdamW's betas", at_least=0, below=1)
    adam_eps: float = option(1e-7, help="AdamW's epsilon", above=0)
    max_grad_norm: float = option(1.0, help="clip the global gradient norm; 0 turns it off", at_least=0)
    init_adapter: str | None = option(
        None,
        help="LoRA adapter (PEFT's or mlx's) or training run to start from; its rank, alpha and targets are used",
        heading="What to train",
        path=True,
    )
    r: int | None = option(None, help="LoRA rank; by default 32", at_least=1, at_most=4096)
    lora_alpha: float | None = option(None, help="LoRA alpha, the scale is alpha / r; by default 16", above=0)
    lora_dropout: float = option(0.0, help="dropout before LoRA", at_least=0, below=1)
    language: str | None = option(
        None, help="language model: qkv_proj o_proj gate_up_proj down_proj; by default lora", choices=("off", "lora")
    )
    vision: str | None = option(
        None, help="CLIP tower: q_proj k_proj v_proj out_proj fc1 fc2; by default lora", choices=("off", "lora")
    )
    projector: str | None = option(None, help="img_projection; by default lora", choices=("off", "lora", "full"))
    separators: str | None = option(None, help="sub_GN and glb_GN; by default off", choices=("off", "full"))
    lm_head: str | None = option(None, help="output layer; by default off", choices=("off", "lora"))
    num_crops: int | None = option(
        None, help="most crops a photo is cut into; by default the model's own", heading="Photos",
        at_least=1, at_most=MAX_CROPS,
    )  # fmt: skip
    max_length: int | None = option(
        None, help="most tokens a row may take; a longer row is an error before the first step, never cut",
        at_least=1, at_most=MAX_TOKENS,
    )  # fmt: skip
    skip_long: bool = option(False, help="leave out rows that take more tokens, with a note, instead of the error")
    group_by_length: bool = option(False, help="rows of similar length share a batch, which reduces padding")
    grad_checkpoint: bool = option(False, help="compute activations twice to save memory", heading="Memory and time")
    compile: bool = option(
        False, help="compile a pass, once for each of the few shapes that batches are then padded to; pays on some machines"
    )  # fmt: skip
    memory_limit: float | None = option(
        None, help="gigabytes to stay within, on MLX: a step is split into as many passes as needed, "
        "with --grad-checkpoint if it must be", above=0, at_most=MAX_GB,
    )  # fmt: skip
    feature_cache: Path | None = option(
        None, help="folder to cache photo features in, so that each photo is encoded once; only with a frozen "
        "image side", writes="folder",
    )  # fmt: skip
    feature_cache_gb: float = option(20.0, help="most gigabytes that folder may take", above=0, at_most=MAX_GB)
    seed: int = option(
        0, help="seed of order, LoRA weights and dropout", heading="Seed, log and checkpoints",
        at_least=0, at_most=MAX_TRAINING_SEED,
    )  # fmt: skip
    steps_per_report: int = option(10, help="optimiser steps between log lines", at_least=1, at_most=MAX_STEPS)
    steps_per_eval: int = option(200, help="optimiser steps between validation losses", at_least=1, at_most=MAX_STEPS)
    val_rows: int = option(200, help="validation rows used, 0 for none", at_least=0, at_most=MAX_ROWS)
    save_every: int = option(200, help="optimiser steps between checkpoints", at_least=1, at_most=MAX_STEPS)
    mlx_adapter: bool = option(False, help="write the best adapter as mlx-vlm and mlx-lm read it too, into OUTPUT/mlx")
    upload_repo: str | None = option(None, help="upload the best adapter to this repository of the hub, OWNER/NAME")
    public: bool = shared_options.public()
    json: bool = option(False, help="progress as JSON lines on stdout")
    report_to: tuple[str, ...] = option(
        (), help=f"where the run is shown: {', '.join(LOGGERS)}, several with commas; by default OUTPUT/log.jsonl alone",
        heading="Reports",
    )  # fmt: skip
    project: str | None = option(None, help=f"project of the reports; by default {PROJECT}")
    run_name: str | None = option(None, help="name of the run in the reports; by default that of OUTPUT")
    report_rows: int = option(
        8, help="validation rows whose answers are reported with their photos after each validation, 0 for none",
        at_least=0, at_most=1000,
    )  # fmt: skip
    report_checkpoints: str = option(
        "none", help="adapters that are reported as artifacts: none, the best at the end, or every checkpoint",
        choices=("none", "end", "checkpoint"),
    )  # fmt: skip
    rank_timeout: float = option(
        600.0, help="seconds that ranks wait for each other, after which each ends; the last checkpoint stays",
        heading="Several machines or GPUs (docs/machines.md)", above=0, at_most=1_000_000,
    )  # fmt: skip
    reduce_dtype: Dtype = option(
        "float32", help="in which ranks send their gradients; bfloat16 halves what is sent", choices=("float32", "bfloat16")
    )

    def check_values(self, where: str) -> None:
        """Raise UserError for settings that do not go together."""
        if len(self.adam_betas) != 2:
            raise UserError(f"--adam-betas takes two numbers, got {len(self.adam_betas)}")
        chosen(self.report_to)
        if self.compile and self.lora_dropout:
            raise UserError(
                "--compile pads batches, and a padded batch draws other dropout masks; leave out --compile or --lora-dropout"
            )
        if self.memory_limit is not None and self.backend != "mlx":
            raise UserError("--memory-limit plans for MLX; leave it out with --backend torch, or set --batch-size yourself")

    def with_lora_defaults(self) -> Self:
        """The settings with every unset one of `LORA_DEFAULTS` at its default."""
        return replace(self, **{name: value for name, value in LORA_DEFAULTS.items() if getattr(self, name) is None})

    def adapter(self) -> AdapterArgs:
        """The LoRA configuration the group switches ask for. Raises UserError where all are off."""
        from ..adapters import GROUPS, AdapterArgs  # with numpy: the flags alone need none of it

        lora = self.with_lora_defaults()
        assert lora.r is not None and lora.lora_alpha is not None
        targets: tuple[str, ...] = ()
        saved: tuple[str, ...] = ()
        for name, group in GROUPS.items():
            choice = getattr(lora, name)
            targets += group if choice == "lora" else ()
            saved += group if choice == "full" else ()
        if not targets:
            raise UserError("language, vision, projector and lm_head are all without LoRA; set at least one of them to lora")
        return AdapterArgs(lora.r, lora.lora_alpha, self.lora_dropout, targets, saved, base_model_name_or_path=self.model)


def as_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as state.json and settings.json hold them."""
    return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def check(config: TrainConfig) -> None:
    """Raises UserError for a setting out of its range, or that makes no sense with another."""
    check_ranges(config)
    config.check_values("the settings")
