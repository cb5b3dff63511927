"""The settings of a prediction run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_phi3v import shared_options
from mlx_phi3v.backend_names import BACKENDS, default_backend
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_BATCH, MAX_CROPS, MAX_GB, MAX_ROWS, MAX_SEED, MAX_TOKENS

if TYPE_CHECKING:
    from mlx_phi3v.catalogue import Split


@dataclass(frozen=True)
class PredictConfig:
    """Settings of a prediction run."""

    data: Path = option(help="catalogue folder, made by data.ingest or data.sample")
    output: Path = option(help="run folder; an unfinished one is continued", writes="folder")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    adapter: str | None = option(None, help="LoRA adapter or training run; none scores the base model", path=True)
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = shared_options.compute_dtype()
    attn_implementation: str = option(
        "sdpa", help="torch only: attention kernel (for the noise floor)", choices=("sdpa", "eager")
    )
    kv_bits: int | None = shared_options.kv_bits()
    compile: bool = shared_options.compiled_step()
    split: str = option("test", help="split to answer")
    limit: int | None = option(None, help="only the first rows", at_least=1, at_most=MAX_ROWS)
    shard: str | None = option(None, help="i/n: only every n-th row from the i-th on (from 1), for several machines")
    batch_size: int = option(16, help="rows answered together; does not change the answers", at_least=1, at_most=MAX_BATCH)
    num_crops: int | None = option(
        None, help="most crops of a photo; by default as in training, else the model's own", at_least=1, at_most=MAX_CROPS
    )
    max_new_tokens: int = option(96, help="longest answer, in tokens", at_least=1, at_most=MAX_TOKENS)
    temperature: float = option(0.0, help="0 is greedy", at_least=0, at_most=100)
    top_p: float = option(1.0, help="nucleus of sampling", above=0, at_most=1)
    seed: int = option(0, help="seed of sampling", at_least=0, at_most=MAX_SEED)
    label: str | None = option(None, help="name of the run in reports; by default the folder's")
    feature_cache: Path | None = option(
        None, help="folder of cached photo features: each photo is encoded once", writes="folder"
    )
    feature_cache_gb: float = option(20.0, help="most gigabytes that folder may take", above=0, at_most=MAX_GB)
    trace: Path | None = option(None, help="score this run's tokens under the model, into OUTPUT, instead of answering")
    json: bool = option(False, help="progress as JSON lines on stdout")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """ "2/4" -> (2, 4). Raises UserError for anything else."""
    if text is None:
        return None
    try:
        i, n = (int(number) for number in text.split("/"))
    except ValueError:
        i, n = 0, 0
    if not 1 <= i <= n:
        raise UserError(f"--shard {text} is not of the form i/n with 1 <= i <= n, such as 2/4")
    return i, n


def chosen_rows(split: Split, limit: int | None, shard: tuple[int, int] | None) -> range:
    """Row numbers of the split to answer."""
    rows = range(len(split))[:limit]
    return rows[shard[0] - 1 :: shard[1]] if shard else rows
