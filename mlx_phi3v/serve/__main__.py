"""Serve a model on this machine: a page to drop a photo on, and OpenAI's chat endpoint.

    python -m mlx_phi3v.serve --model phi3v-4bit --adapter runs/mine
    python -m mlx_phi3v.serve --model tiny --adapter runs/mine --compare runs/other --corrections corrections

Open http://127.0.0.1:8080/, or point a client of OpenAI's API at http://127.0.0.1:8080/v1. Ctrl-C ends it. It listens to this
machine alone; --host 0.0.0.0 lets others in, who need the token that is printed.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Sequence
from functools import partial

from .. import cli
from ..errors import UserError, run_cli
from .settings import ServeConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(ServeConfig, "python -m mlx_phi3v.serve", __doc__ or "", argv)
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"serving needs {package}, which is not installed: pip install 'mlx-phi3v[serve]'")
    from .guard import is_loopback
    from .server import serve

    token = config.token or (None if is_loopback(config.host) else secrets.token_urlsafe(24))
    serve(config, token)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
