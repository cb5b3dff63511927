"""What the commands are called, and how one starts another."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# Installed commands that are not named after the last part of their module.
_RENAMED = {"eval": "demo", "eval.plan": "plan_eval", "eval.import_run": "import", "eval.bring": "import",
            "data.export": "export_data"}  # fmt: skip
_MODULE = re.compile(r"python -m ((?:mlx_phi3v|data|eval)\b(?:\.\w+)?)")


def console_name(module: str) -> str:
    """The installed command of a module: data.ingest -> mlx_phi3v.ingest."""
    return f"mlx_phi3v.{_RENAMED.get(module) or module.rpartition('.')[2]}"


def installed() -> bool:
    """Whether this process is an installed command, not `python -m` or a library's user."""
    name = Path(sys.argv[0]).name
    return name.startswith("mlx_phi3v.") and not name.endswith(".py")


def as_typed(text: str, command: str) -> str:
    """`text` with every `python -m MODULE` as its installed command, where `command` was started as one."""
    if Path(sys.argv[0]).name != command:
        return text
    return _MODULE.sub(lambda found: console_name(found[1]), text)


def child_command(module: str) -> list[str]:
    """The start of a command line that runs one of our modules, also where the current folder holds a namesake (-P)."""
    return [sys.executable, "-P", "-m", module]


def child_environment() -> dict[str, str]:
    """This process's environment, in which a child finds the same packages as this process does."""
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}  # for the processes that the child starts
    if (root / "pyproject.toml").is_file():  # a checkout, perhaps not installed: -P leaves out the current folder
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return environment
