"""Ask the model about a photo, greedily or by sampling, streamed as it answers.

    python -m mlx_phi3v.generate --image photo.jpg --model tiny --adapter runs/mine
    python -m mlx_phi3v.generate --image photo.jpg --question "What is this?"

--verify checks first that the model computes what it did when its folder was written, and needs no question.
Without --question or --prompt it asks for a product's title, category and price.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from . import cli
from .errors import run_cli
from .settings import GenerateConfig
from .task import chat_prompt as chat_prompt  # where scripts know it from


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(GenerateConfig, "python -m mlx_phi3v.generate", __doc__ or "", argv)
    from .question import ask  # with what reads photos and loads a model: --help and a wrong flag need none of it

    ask(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
