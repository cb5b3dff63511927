"""Scripts as modules, to test what they do."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from .paths import ROOT


def load_script(path: str) -> ModuleType:
    """The module of scripts/`path`."""
    file = ROOT / "scripts" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
