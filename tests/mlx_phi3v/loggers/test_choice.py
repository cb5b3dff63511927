"""--report-to: which loggers there are, and what is said where one cannot be used."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v import cli
from mlx_phi3v.errors import UserError
from mlx_phi3v.loggers.choice import chosen, project_of, require_usable
from mlx_phi3v.training.train_config import TrainConfig
from tests.helpers.paths import ROOT


def read(*flags: str) -> TrainConfig:
    return cli.parse(TrainConfig, "python -m mlx_phi3v.train", "", ["--data", "shop", "--output", "run", *flags])


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], ()),
        (["--report-to", "none"], ()),
        (["--report-to", "wandb"], ("wandb",)),
        (["--report-to", "wandb,tensorboard, trackio"], ("wandb", "tensorboard", "trackio")),
        (["--report_to", "TensorBoard", "wandb", "wandb"], ("tensorboard", "wandb")),
    ],
)
def test_loggers_are_named_as_in_other_tools(flags: list[str], names: tuple[str, ...]) -> None:
    assert chosen(read(*flags).report_to) == names


def test_a_yaml_file_takes_a_list_or_a_text(tmp_path: Path) -> None:
    for value in ("[wandb, trackio]", "wandb,trackio"):
        (tmp_path / "run.yaml").write_text(f"report_to: {value}\nproject_name: shop\nrun_name: first\n")
        config = read("--config", str(tmp_path / "run.yaml"))
        assert chosen(config.report_to) == ("wandb", "trackio")
        assert (config.project, config.run_name) == ("shop", "first")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("mlflow", "--report-to is 'mlflow'; choose wandb, tensorboard, trackio, several with commas, or none"),
        ("wandb,", "--report-to is ''; choose"),
        ("none,wandb", "--report-to has none beside wandb; leave one out"),
    ],
)
def test_another_name_is_refused(value: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read("--report-to", value)
    assert str(error.value).startswith(sentence)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "tensorboard", "trackio"):
        with pytest.raises(UserError) as error:
            require_usable([name])
        assert str(error.value) == f"--report-to {name} needs the package {name}; pip install 'mlx-phi3v[{name}]'"


def test_without_a_login_wandb_is_refused_before_the_training(tmp_path: Path) -> None:
    """It would ask on the terminal, in the midst of the training."""
    code = "from mlx_phi3v.loggers.choice import require_usable; require_usable(['wandb'])"
    environment: dict[str, Any] = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("--report-to wandb: nobody is logged in to W&B; run `wandb login`, or set WANDB_MODE=offline")


def test_the_project_is_that_of_the_library_s_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert project_of("wandb", None) == "mlx-phi3v"
    monkeypatch.setenv("WANDB_PROJECT", "shop")
    assert project_of("wandb", None) == "shop" and project_of("wandb", "other") == "other"
