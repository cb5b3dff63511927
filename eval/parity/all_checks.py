"""The checks that the flags ask for."""

from __future__ import annotations

from mlx_phi3v.errors import UserError
from mlx_phi3v.golden.checks import Check
from mlx_phi3v.progress import say

from .backends import compare_backends
from .golden import check_backend, check_tokens
from .settings import ParityConfig


def run_checks(config: ParityConfig) -> list[Check]:
    """All chosen checks. Raises UserError for wrong settings or files."""
    if (config.golden is None) == (config.model is None):
        raise UserError("give --golden DIR (recorded outputs) or --model M (MLX against torch), and not both")
    if config.golden is not None:
        checks = check_tokens(config.golden, config.tokenizers or config.golden.parent / "phi3v")
        for backend in config.backend:
            say(f"running {config.golden} on {backend}")
            checks += check_backend(config.golden, backend)
        return checks
    assert config.model is not None
    return compare_backends(config.model, config.image, num_crops=config.num_crops, new_tokens=config.new_tokens)
