"""The settings of a pre-training run of the tiny model, and the learning rates that follow from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mlx_phi3v.cli import option
from mlx_phi3v.schedule import learning_rate


@dataclass(frozen=True)
class PretrainConfig:
    """Of one pre-training run."""

    output: Path = option(help="folder for the checkpoint")
    products: int = option(48000, help="pictures to draw; the last 1,000 are held out for testing")
    half_steps: int = option(3000, help="steps of the tower alone, on half of the patches")
    full_steps: int = option(500, help="steps of the tower alone, on all patches")
    joint_steps: int = option(1300, help="steps of the whole model")
    batch_size: int = option(64, help="pictures a step, over all workers")
    vision_rate: float = option(1e-3, help="peak rate of the tower alone")
    joint_rate: float = option(1.5e-3, help="peak rate of the whole model; the tower learns at a tenth of it")
    copies: int = option(8, help="rows of text to copy a step, over all workers")
    seed: int = option(7, help="seed of weights, products and order")
    vocab_size: int = option(1100, help="tokens before the special ones")
    cache: Path = option(Path("/tmp/pretrain_tiny"), help="folder for the drawn pictures and the tower that learnt alone")
    workers: int = option(2, help="processes that draw and train, one thread each")

    @property
    def alone(self) -> int:
        """Steps of the tower alone."""
        return self.half_steps + self.full_steps

    @property
    def tower_file(self) -> Path:
        """Where the tower that learnt alone is stored; its name is a hash of all that made it."""
        later = ("output", "cache", "joint_steps", "joint_rate", "copies", "vocab_size")
        made_by = json.dumps({k: v for k, v in asdict(self).items() if k not in later}, sort_keys=True)
        return self.cache / f"tower-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}.safetensors"


def rate_of(settings: PretrainConfig, step: int) -> tuple[float, float]:
    """Rates (tower, language model) of a step: a warm-up and a half cosine for each of the two stages."""
    s, alone = settings, settings.alone
    if step < alone:
        return learning_rate(step, peak=s.vision_rate, total_steps=alone, warmup_steps=300, schedule="cosine"), 0.0
    rate = learning_rate(step - alone, peak=s.joint_rate, total_steps=s.joint_steps, warmup_steps=100, schedule="cosine")
    return rate / 10, rate
