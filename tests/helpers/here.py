"""A command in this process, as `python -m` runs it in one of its own: one that imports torch takes seconds to start.

What is said at its end is what `mlx_phi3v.errors.run_cli` says; tests/mlx_phi3v/test_run_cli.py holds that in processes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess

from mlx_phi3v.errors import UserError, shown
from mlx_phi3v.system_errors import os_sentence

from .paths import ROOT


def run_here(module: str, *arguments: object, mistake: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a command from the root of the checkout. `mistake` is its status after a user's mistake.

    An exception that is no mistake of a user's is raised.
    """
    words, out, errors = [str(word) for word in arguments], io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = importlib.import_module(module).main(words) or 0
        except (UserError, OSError) as error:
            sentence = str(error) if isinstance(error, UserError) else os_sentence(error)
            if sentence is None:
                raise
            status = mistake
            errors.write(f"error: {shown(sentence)}\n")
    return subprocess.CompletedProcess([module, *words], status, out.getvalue(), errors.getvalue())
