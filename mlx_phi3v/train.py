"""Fine-tune Phi-3-Vision with LoRA on a catalogue of product photos, on MLX or torch.

    python -m mlx_phi3v.train --model microsoft/Phi-3-vision-128k-instruct --data catalogue --output runs/mine
    python -m mlx_phi3v.train --config run.yaml --resume

The loss is taken over the answer only and weighted by its tokens; rows, order and adapters are the same on both
backends. OUTPUT/best and OUTPUT/last hold the adapter in PEFT's format; with --mlx-adapter OUTPUT/mlx holds it in mlx-vlm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from . import cli
from .errors import run_cli
from .progress import result, say
from .training.train_config import TrainConfig


def train(config: TrainConfig) -> dict[str, Any]:
    """See `mlx_phi3v.training.loop`, which is imported once the flags are read: --help and a wrong flag need none of it."""
    from .training import loop

    summary = loop.train(config)
    if config.mlx_adapter:
        summary |= _export(config)
    return summary


def _export(config: TrainConfig) -> dict[str, Any]:
    """Write the best adapter in mlx's form; one process of several does."""
    from .export import ExportConfig, export
    from .training.output_folder import is_first

    if not is_first(config.backend):
        return {}
    made = export(ExportConfig(str(config.output / "best"), config.output / "mlx", config.model), overwrite=True)
    return {"mlx_adapter": made["path"]}


def _then_upload(config: TrainConfig) -> AbstractContextManager[None]:
    """Upload the best adapter where that is asked for; one process of several does."""
    from .hub.upload import then_upload
    from .training.output_folder import is_first

    if not is_first(config.backend):
        return nullcontext()
    return then_upload(config.upload_repo, config.output, public=config.public, as_json=config.json)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(TrainConfig, "python -m mlx_phi3v.train", __doc__ or "", argv)
    with _then_upload(config):
        summary = train(config)
        result(config.json, event="done", **summary)
        start = f", from {summary['init_adapter']}," if "init_adapter" in summary else ""
        say(
            f"trained {summary['steps']} steps{start} at {summary['rows_per_second']} rows/s; adapter: {summary['adapter']}",
            as_json=config.json,
        )
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
