"""Answer with several ranks: each takes every n-th row, and the first makes one run of theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_phi3v.backend import Backend
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import remove_folder

from ..runs.run import Run
from ..shards import merge_runs
from .settings import PredictConfig


def own_share(config: PredictConfig, backend: Backend) -> PredictConfig:
    """The settings of this rank's part of the run; `config` itself where it is the only one.

    Raises UserError where --shard is given too, and where OUTPUT is there already.
    """
    rank, ranks = backend.world()
    if ranks == 1:
        return config
    if config.shard:
        raise UserError(
            "--shard is of processes that do not know each other; leave it out, the ranks share the rows themselves"
        )
    if config.trace:
        raise UserError("--trace runs in one process; start it without a launcher")
    # With their parts it was killed before it removed them: all of it is done, but for that.
    if (config.output / "manifest.json").exists() and not _parts(config.output, ranks).is_dir():
        raise UserError(f"{config.output} is there already; give --output a new folder, or finish it without a launcher")
    return replace(
        config,
        shard=f"{rank + 1}/{ranks}",
        output=_parts(config.output, ranks) / f"{rank + 1}",
        label=config.label or config.output.name,
    )


def make_one_run(config: PredictConfig, backend: Backend) -> None:
    """Wait until all ranks have written their part; the first then makes the run of `config` of them.

    The parts are removed afterwards. Raises UserError on the first rank where it does not see them: the folder must be one
    that all ranks see.
    """
    rank, ranks = backend.world()
    if ranks == 1:
        return
    backend.all_sum(np.ones(1, np.float32))
    if rank:
        return
    parts = _parts(config.output, ranks)
    lacking = [str(i) for i in range(1, ranks + 1) if not (parts / str(i)).is_dir()]
    if lacking:
        raise UserError(
            f"{parts} lacks the parts of ranks {', '.join(lacking)}: copy them there from their machines, then run "
            "eval.merge on all of them; or give --output a folder that all ranks see"
        )
    merge_runs([Run.load(parts / str(i)) for i in range(1, ranks + 1)], config.output)
    remove_folder(parts)


def _parts(output: Path, ranks: int) -> Path:
    """Where the ranks write meanwhile, beside the run. Another number of ranks has other parts."""
    return output.parent / f".{output.name}.of-{ranks}"
