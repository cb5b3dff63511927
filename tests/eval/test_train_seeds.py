"""Trainings with several seeds: which commands run, what a record refuses, and what is compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.demo import jobs
from eval.demo.seed_sets import compare_command, looked_again, note_look
from eval.demo.seeds_config import SeedsConfig
from eval.demo.seeds_job import RECORD, begin
from eval.train_seeds import main
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json
from tests.helpers.synthetic_runs import make_rows, write_run

RECIPE = "epochs: 2\nseed: 3\nvision: off\nprojector: off\n"

# Stands for mlx_phi3v.train and eval.predict: notes its command line; eval.predict leaves the run of its backend.
_COMMAND = """
import pathlib, shutil, sys
folder, module, *flags = sys.argv[1:]
value = lambda name: flags[flags.index(name) + 1]
with open(pathlib.Path(folder) / "log", "a") as log: log.write(f"{module} {value('--backend')} {value('--output')}\\n")
if module == "eval.predict":
    shutil.copytree(pathlib.Path(folder) / "answers" / value("--backend"), value("--output"), dirs_exist_ok=True)
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "catalogue"
    flags = ["--output", str(folder), "--products", "20", "--seed", "3", "--validation", "4", "--test", "6"]
    subprocess.run([sys.executable, "-m", "data.sample", *flags], check=True, timeout=300)
    return folder


@pytest.fixture
def config(catalogue: Path, tmp_path: Path) -> SeedsConfig:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "out").mkdir()
    return SeedsConfig(catalogue, tmp_path / "out", seeds=2, recipe=tmp_path / "recipe.yaml")


def changed(config: SeedsConfig, **changes: Any) -> SeedsConfig:
    return SeedsConfig(**({name: getattr(config, name) for name in config.__dataclass_fields__} | changes))


def test_both_backends_train_with_each_seed_in_turn(config: SeedsConfig) -> None:
    chains = config.sets.chains()
    assert [job.module for job in chains[0]] == ["mlx_phi3v.train", "eval.predict"]
    trained = [(chain[0].arguments[chain[0].arguments.index("--backend") + 1],
                chain[0].arguments[chain[0].arguments.index("--seed") + 1]) for chain in chains]  # fmt: skip
    assert trained == [("mlx", "3"), ("torch", "3"), ("mlx", "4"), ("torch", "4")]  # the recipe's seed is the first
    folders = [chain[1].run.name for chain in chains if chain[1].run]
    assert folders == ["mlx-tuned", "torch-tuned", "mlx-tuned-seed-4", "torch-tuned-seed-4"]
    assert all("--feature-cache" in job.arguments for chain in chains for job in chain)  # the tower is frozen
    runs = {name: str(config.output / name) for name in folders}
    assert compare_command(config.sets) == [
        "--a", runs["torch-tuned"], runs["torch-tuned-seed-4"], "--b", runs["mlx-tuned"], runs["mlx-tuned-seed-4"]
    ]  # fmt: skip
    assert compare_command(changed(config, seeds=1).sets) == [runs["torch-tuned"], runs["mlx-tuned"]]


def test_more_seeds_go_on_and_fewer_or_other_settings_are_named(config: SeedsConfig, tmp_path: Path) -> None:
    assert begin(config) == 0 and begin(config) == 0
    note_look(config.output / RECORD, {"seeds": 2, "exit_status": 3})
    assert begin(changed(config, seeds=5)) == 2
    assert read_json(config.output / RECORD, "record")["seeds"] == 5
    assert begin(changed(config, seeds=5, backends=("torch",), at_once=2)) == 2
    (tmp_path / "other.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 3"))
    others: list[tuple[dict[str, Any], str]] = [
        ({"seeds": 4}, "--seeds was 5 and is now 4"),
        ({"recipe": tmp_path / "other.yaml"}, "epochs of --recipe was 2.0 and is now 3.0"),
        ({"split": "validation"}, "--split was test and is now validation"),
        ({"limit": 3}, "--limit was None and is now 3"),
    ]
    for other, said in others:
        with pytest.raises(UserError, match=said):
            begin(changed(config, **({"seeds": 5} | other)))
    assert read_json(config.output / RECORD, "record")["seeds"] == 5
    again = looked_again(2, 5)
    assert again and "2 trainings a side were compared before, now 5" in again
    assert looked_again(0, 5) is looked_again(5, 5) is None


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the commands, which are replaced by a copy of a finished run each."""
    rows = make_rows(40)
    for backend in ("mlx", "torch"):
        write_run(tmp_path / "answers" / backend, rows, label=f"{backend}-tuned", backend=backend)
    monkeypatch.setattr(jobs, "child_command", lambda module: [sys.executable, "-c", _COMMAND, str(tmp_path), module])
    return tmp_path / "log"


def flags_of(config: SeedsConfig, *more: str) -> list[str]:
    return ["--data", str(config.data), "--output", str(config.output), "--recipe", str(config.recipe), *more]


def test_what_is_finished_is_not_done_again_and_a_pair_is_compared(
    config: SeedsConfig, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags_of(config, "--seeds", "1", "--json")) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["event"] == "done" and done["claim"] == "these two adapters" and done["verdict"] == "INCONCLUSIVE"
    assert (config.output / "seeds.html").is_file()
    assert len(commands.read_text().splitlines()) == 4
    assert main(flags_of(config, "--seeds", "1", "--json")) == 0
    assert len(commands.read_text().splitlines()) == 4
    shutil.rmtree(config.output / "mlx-tuned")
    assert main(flags_of(config, "--seeds", "1")) == 0
    assert [line.split()[:2] for line in commands.read_text().splitlines()[4:]] == [
        ["mlx_phi3v.train", "mlx"],
        ["eval.predict", "mlx"],
    ]
    out = capsys.readouterr().out
    assert "One pair of trainings speaks of these two adapters only" in out and "--seeds 5" in out


def test_one_backend_alone_says_how_to_compare(config: SeedsConfig, commands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags_of(config, "--seeds", "2", "--backends", "torch")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--backends mlx on the other machine" in out and "python -m eval.compare --a TORCH_RUN... --b MLX_RUN..." in out
    assert len(commands.read_text().splitlines()) == 4 and not (config.output / "seeds.html").exists()


def test_the_command_to_go_on_with_names_what_was_given(config: SeedsConfig) -> None:
    places = f"--data {config.data} --output {config.output} --mlx-model m4 --recipe {config.recipe}"
    assert changed(config, mlx_model="m4", limit=3).command == f"python -m eval.train_seeds {places} --limit 3"
    assert SeedsConfig(Path("d"), Path("o")).command == "python -m eval.train_seeds --data d --output o"
