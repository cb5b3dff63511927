"""A job goes on with the settings it was begun with, and with no others."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.demo.job_record import RECORD, begin, record_of
from eval.demo.seed_sets import note_look
from eval.demo.settings import RECIPE, DemoConfig
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import folder_in_place, write_json
from tests.helpers.paths import ROOT


def test_the_same_settings_go_on_and_others_are_named(tmp_path: Path, checkpoint: Path) -> None:
    config = DemoConfig(tmp_path, products=150, test=10)
    begin(tmp_path, record_of(config))
    begin(tmp_path, record_of(dataclasses.replace(config, backends=("mlx",), tune_on="mlx", json=True)))
    begin(tmp_path, record_of(dataclasses.replace(config, seeds=3)))
    note_look(tmp_path / RECORD, {"seeds": 3, "exit_status": 0})
    for more in (None, 3, 5):  # none leaves the trainings as they are
        assert begin(tmp_path, record_of(dataclasses.replace(config, seeds=more))) == 3
    stored = (tmp_path / RECORD).read_bytes()
    assert json.loads(stored)["seeds"] == 5
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text().replace("epochs: 4", "epochs: 2"))
    changes: dict[str, tuple[Any, str]] = {
        "products": (151, "--products was 150 and is now 151;"),
        "test": (11, "--test was 10 and is now 11;"),
        "seed": (2, "--seed was 1 and is now 2;"),
        "model": (str(checkpoint), f"--model was tiny and is now {checkpoint};"),
        "seeds": (4, "--seeds was 5 and is now 4;"),
        "recipe": (recipe, "epochs of --recipe was 4.0 and is now 2.0;"),
    }
    for name, (value, said) in changes.items():
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            begin(tmp_path, record_of(dataclasses.replace(config, **{name: value})))
        assert "give the old ones or another --output" in str(refused.value)
    assert (tmp_path / RECORD).read_bytes() == stored


def test_a_folder_with_other_files_is_no_output_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "catalogue.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds what this job did not write \(catalogue\.json\)"):
        begin(tmp_path, record_of(DemoConfig(tmp_path, products=150, test=10)))
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.json"]


def test_an_output_of_an_earlier_version_is_known_by_what_it_holds(tmp_path: Path, checkpoint: Path) -> None:
    pytest.importorskip("mlx")
    config = DemoConfig(tmp_path, products=150, test=10, model=str(checkpoint))
    (tmp_path / "catalogue").mkdir()
    write_json(tmp_path / "catalogue" / "catalogue.json", {"settings": {"products": 150, "test": 10, "seed": 1}})
    convert(ConvertConfig(str(checkpoint), tmp_path / "model"))
    others: list[tuple[dict[str, Any], str]] = [
        ({"products": 160}, "--products was 150"),
        ({"model": "tiny"}, f"--model was {checkpoint}"),
    ]
    for other, said in others:
        with pytest.raises(UserError, match=re.escape(said)):
            begin(tmp_path, record_of(dataclasses.replace(config, **other)))
        assert not (tmp_path / RECORD).exists()
    begin(tmp_path, record_of(config))
    assert json.loads((tmp_path / RECORD).read_text())["products"] == 150


def test_weights_that_changed_under_their_name_are_noticed(tmp_path: Path) -> None:
    record = record_of(DemoConfig(tmp_path))
    begin(tmp_path, record)
    record.weights = "other"
    with pytest.raises(UserError, match="the weights of --model tiny are not what they were"):
        begin(tmp_path, record)


def test_a_corrupt_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"products": "many"}')
    with pytest.raises(UserError, match=r"job\.json"):
        begin(tmp_path, record_of(DemoConfig(tmp_path)))


def test_an_output_that_another_job_writes_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "--output", str(tmp_path / "out"), "--products", "150", "--test", "10"]
    with folder_in_place(tmp_path / "out"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and f"another process is writing {tmp_path / 'out'}" in done.stderr
        assert list((tmp_path / "out").iterdir()) == []


def test_the_command_that_goes_on_repeats_what_was_given(tmp_path: Path) -> None:
    assert DemoConfig().command == "python -m eval"
    given = DemoConfig(tmp_path / "my runs", products=150, test=10, backends=("torch", "mlx"), seeds=3, json=True).command
    assert given == f"python -m eval --output '{tmp_path}/my runs' --products 150 --test 10 --backends torch mlx"
