"""A wheel of this checkout, installed into a bare environment, has all that the commands need."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.helpers.wheel import Installed

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MODULES = {name: target.partition(":")[0].removesuffix(".__main__") for name, target in SCRIPTS.items()}


def test_every_command_that_can_be_run_as_a_module_is_installed() -> None:
    runnable = set()
    for package in ("mlx_phi3v", "data", "eval"):
        for path in (ROOT / package).rglob("*.py"):
            if '__name__ == "__main__"' in path.read_text():
                runnable.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    # The older name of eval.import_run, and what runs as a part of a folder's model_file.
    assert runnable - {"eval.bring", "mlx_phi3v.backend_mlx_vlm.verify"} == set(MODULES.values())


def test_the_wheel_holds_every_file_of_the_packages(installed: Installed) -> None:
    held = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for package in ("mlx_phi3v", "data", "eval")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == ours
    assert {"mlx_phi3v/tiny/model.safetensors", "data/ingest/presets/burberry.yaml", "eval/report/page/page.html"} <= held


def test_the_checkout_is_out_of_sight(installed: Installed, tmp_path: Path) -> None:
    code = "import sys, data, eval, mlx_phi3v; print(*(m.__file__ for m in (data, eval, mlx_phi3v)), *sys.path, sep='\\n')"
    lines = installed.run(tmp_path, "-c", code).stdout.split()
    assert all(line.startswith(str(installed.environment)) for line in lines[:3])
    assert str(ROOT) not in lines


def test_every_module_teaches_itself(installed: Installed, tmp_path: Path) -> None:
    """As `python -m MODULE --help` does, all in one process."""
    code = """
import runpy, sys
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert stop.code == 0, module
"""
    shown = installed.run(tmp_path, "-c", code, *MODULES.values()).stdout
    for module in MODULES.values():
        assert f"usage: python -m {module} " in shown and f"\n    python -m {module} " in shown
