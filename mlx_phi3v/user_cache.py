"""Where this project keeps small files of its own for the user: never anything that is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """$MLX_PHI3V_CACHE, $XDG_CACHE_HOME/mlx_phi3v, ~/Library/Caches/mlx_phi3v on a Mac, else ~/.cache/mlx_phi3v.

    A user without a home folder has none: then it is a path where no file can be.
    """
    own, shared = os.environ.get("MLX_PHI3V_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    if shared and os.path.isabs(shared):  # a relative one is to be ignored, says the specification
        return Path(shared) / "mlx_phi3v"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "mlx_phi3v"
