"""The package as a user has it: a wheel, installed into a bare environment away from the checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from .paths import ROOT

# What a wheel is made of; anything else that lies in a checkout must not change it.
SOURCES = ("mlx_phi3v", "data", "eval", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """A wheel and the environment it was installed into."""

    wheel: Path
    environment: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python"

    @property
    def commands(self) -> list[str]:
        """The console commands that were installed."""
        return sorted(path.name for path in (self.environment / "bin").glob("mlx_phi3v.*"))

    def run(
        self, folder: Path, *line: object, status: int | None = 0, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a console command, or `-m MODULE`, in `folder`; `status` is the exit status it must have."""
        first = str(line[0])
        start = [self.python, first] if first.startswith("-") else [self.environment / "bin" / first]
        command = [str(part) for part in [*start, *line[1:]]]
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
        assert status in (None, done.returncode), f"{command}: {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        return done


def _run(*line: object) -> None:
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def install(folder: Path) -> Installed:
    """Build the wheel of this checkout and install it; nothing is downloaded.

    The environment sees the packages of the running one through a .pth file. Such a file does not run the .pth files
    found there, so an editable install of the checkout is out of sight.
    """
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    installed = Installed(wheel, environment)
    _run(*pip, "--python", installed.python, "install", "--no-index", "--no-deps", wheel)
    [packages] = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return installed


def installed_once(factory: pytest.TempPathFactory) -> Installed:
    """For a session's fixture. Skips where the tools to build with are missing."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    return install(factory.mktemp("wheel"))
