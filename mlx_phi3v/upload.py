"""Upload a model, an adapter, a training run's best adapter or an exported catalogue to the hub, with a card of facts.

    python -m mlx_phi3v.upload phi3v-4bit --repo OWNER/phi3v-4bit
    python -m mlx_phi3v.upload runs/mine --repo OWNER/mine --public

A repository that is made is private without --public. An upload that was killed goes on when the command is run again:
what is there is not sent again. The token is that of `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import cli
from .cli import option
from .errors import run_cli


@dataclass(frozen=True)
class UploadConfig:
    """Settings of an upload."""

    folder: Path = option(help="model, adapter, training run or exported catalogue", positional=True)
    repo: str = option(help="repository of the hub, OWNER/NAME; made where it is not there")
    public: bool = option(False, help="let everyone see a repository that is made")
    revision: str | None = option(None, help="branch to write to, made where it is not there; by default main")
    training_state: bool = option(False, help="with the optimiser and the position of a training, and the paths it was given")
    license: str | None = option(None, help="licence for the card, as the hub names it: mit, apache-2.0, other, ...")
    json: bool = option(False, help="the summary as a JSON line on stdout")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(UploadConfig, "python -m mlx_phi3v.upload", __doc__ or "", argv)
    from .hub.upload import Destination, upload

    to = Destination(config.repo, config.public, config.revision)
    upload(config.folder, to, training_state=config.training_state, licence=config.license, as_json=config.json)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
