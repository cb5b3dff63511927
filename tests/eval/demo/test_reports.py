"""`python -m eval --report-to`: the trainings are reported, and a logger that cannot be used is said first."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from eval.demo.settings import DemoConfig, check_settings
from mlx_phi3v.errors import UserError


def test_the_trainings_are_reported_where_it_is_asked_for(tmp_path: Path) -> None:
    sets = DemoConfig(tmp_path, report_to=("tensorboard,trackio",)).sets
    assert sets.train("mlx", sets.first).arguments[-3:] == ["--report-to", "tensorboard", "trackio"]
    assert "--report-to" not in DemoConfig(tmp_path, report_to=("none",)).sets.train("mlx", sets.first).arguments


def test_a_missing_package_is_said_before_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mlx-phi3v\[trackio\]'"):
        check_settings(DemoConfig(tmp_path, report_to=("trackio",)))
