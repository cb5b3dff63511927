"""Write an adapter in the form of another tool: of mlx-vlm and mlx-lm, or of PEFT.

    python -m mlx_phi3v.export --adapter runs/mine --model phi3v-4bit --output mine-mlx
    mlx_vlm.generate --model phi3v-4bit --adapter-path mine-mlx --image photo.jpg --prompt "What is this?"
    python -m mlx_phi3v.export --adapter mine-mlx --model phi3v-4bit --form peft --output mine

Every value keeps its bits: a way there and back gives the same tensors and configuration. mlx_phi3v itself reads both forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from . import cli
from .errors import run_cli
from .progress import result, say
from .settings import ExportConfig


def export(config: ExportConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """See `mlx_phi3v.adapter_forms`, which is imported once the flags are read: --help and a wrong flag need none of it."""
    from . import adapter_forms

    return adapter_forms.export(config, overwrite=overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(ExportConfig, "python -m mlx_phi3v.export", __doc__ or "", argv)
    from .hub.upload import then_upload

    with then_upload(config.upload_repo, config.output, public=config.public, as_json=config.json):
        summary = export(config)
        result(config.json, event="done", **summary)
        if not summary.get("already"):
            say(f"wrote {summary['path']}: {summary['tensors']} tensors in the form of {summary['form']}", as_json=config.json)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
