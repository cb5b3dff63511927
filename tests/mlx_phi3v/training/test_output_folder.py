"""A training writes into its own folder only, loses nothing of others, and believes no checkpoint that it did not check."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file, save_file

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import folder_in_place
from mlx_phi3v.training import output_folder
from mlx_phi3v.training.checkpoints import Checkpoints
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig

ADAPTER, OPTIMIZER = "adapter_model.safetensors", "optimizer.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, small_catalogue: Path) -> TrainConfig:
    """A run of two steps on MLX, with checkpoints 1 (the best) and 2."""
    pytest.importorskip("mlx")
    config = TrainConfig(
        data=small_catalogue, output=tmp_path_factory.mktemp("trained") / "run", model=str(checkpoint), backend="mlx",
        dtype="float32", max_steps=2, batch_size=2, learning_rate=1e-3, warmup_steps=0, r=2, vision="off", projector="off",
        num_crops=1, steps_per_report=1, val_rows=0, save_every=1,
    )  # fmt: skip
    train(config)
    return config


@pytest.fixture
def config(trained: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A copy of that run, to be resumed for a third step."""
    output = Path(shutil.copytree(trained.output, tmp_path / "run", symlinks=True))
    return replace(trained, output=output, max_steps=3, resume=True)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def refused(config: TrainConfig, message: str) -> None:
    """The training is refused with this sentence, and no byte of its folder changes."""
    before = contents(config.output)
    with pytest.raises(UserError, match=message) as error:
        train(config)
    assert "\n" not in str(error.value) and str(config.output) in str(error.value)
    assert contents(config.output) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("step-by-step-guide/notes.txt", "mine", r"files that no training wrote \(step-by-step-guide\)"),
        ("step-000001/notes.txt", "mine", r"files that no training wrote"),
        ("log.jsonl", '{"event": "mine"}\n', r"files that no training wrote"),
        ("settings.json", '{"editor": "mine"}', r"settings\.json was not written by a training"),
        ("settings.json", '{"written_by": "another"}', r"settings\.json was not written by a training"),
        ("settings.json", "[]", r"settings\.json was not written by a training"),
        ("settings.json", "{", r"settings\.json is not valid JSON"),
        ("manifest.json", "{}", "holds a prediction run"),
        ("catalogue.json", "{}", "holds a catalogue"),
        ("config.json", "{}", "holds a model"),
        (".git/HEAD", "mine", "no training wrote"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused(
    trained: TrainConfig, tmp_path: Path, name: str, text: str, message: str, resume: bool
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    refused(replace(trained, output=tmp_path / "out", resume=resume), message)


def test_what_a_file_system_puts_into_an_empty_folder_does_not_matter(trained: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    (tmp_path / "out" / ".DS_Store").touch()
    (tmp_path / "out" / ".step-000001.mlx_phi3v.tmp").mkdir()
    train(replace(trained, output=tmp_path / "out", max_steps=1))
    assert {"lost+found", ".DS_Store", "last"} <= set(os.listdir(tmp_path / "out"))
    assert not (tmp_path / "out" / ".step-000001.mlx_phi3v.tmp").exists()


def test_files_beside_a_training_stay(config: TrainConfig) -> None:
    foreign = {
        "step-by-step-guide/notes.txt": "a",
        "step-1/x": "b",
        "notes.tmp": "c",
        ".mine.tmp": "d",
        "step-000001/README.md": "e",
    }
    for name, text in foreign.items():
        (config.output / name).parent.mkdir(exist_ok=True)
        (config.output / name).write_text(text)
    train(config)
    assert {name: (config.output / name).read_text() for name in foreign} == foreign
    assert json.loads((config.output / "last" / "state.json").read_text())["step"] == 3


def test_a_foreign_folder_where_a_checkpoint_belongs_is_refused_at_the_start(config: TrainConfig) -> None:
    (config.output / "step-000003").mkdir()
    (config.output / "step-000003" / "notes.txt").write_text("mine")
    refused(config, r"step-000003 is no whole checkpoint of this training, which writes there; move it elsewhere")


def test_a_second_trainer_is_refused_before_it_reads(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "load", lambda self: pytest.fail("it read the checkpoint"))
    with folder_in_place(config.output):
        refused(config, "another process is writing")


def test_the_other_ranks_write_nothing_and_are_not_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RANK", "1")
    with folder_in_place(config.output), output_folder.held(config.output, "mlx"):
        pass
    monkeypatch.setenv("RANK", "1")  # without WORLD_SIZE nothing was launched
    held = output_folder.held(config.output, "torch")
    with folder_in_place(config.output), pytest.raises(UserError, match="another process"), held:
        pass


def test_a_start_that_fails_leaves_no_folder(trained: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--model"):
        train(replace(trained, output=tmp_path / "a" / "b", model=str(tmp_path / "none")))
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--model"):
        train(replace(trained, output=tmp_path / "empty", model=str(tmp_path / "none")))
    assert (tmp_path / "empty").is_dir()


def test_a_run_that_fails_before_its_first_step_leaves_nothing(
    trained: TrainConfig, small_catalogue: Path, tmp_path: Path
) -> None:
    shop = Path(shutil.copytree(small_catalogue, tmp_path / "shop"))
    for photo in (shop / "images").rglob("*.*"):
        photo.write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"catalogue shard .*train-00000\.arrow, row .* is not a photo"):
        train(replace(trained, data=shop, output=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a photo"):
        train(replace(trained, data=shop, output=tmp_path / "empty"))
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_of_an_earlier_version_is_known_by_its_shape(config: TrainConfig) -> None:
    for path in (config.output / "settings.json", config.output / "last" / "state.json"):
        values = json.loads(path.read_text())
        assert values.pop("written_by") == "mlx_phi3v.train"
        path.write_text(json.dumps(values))
    train(config)
    (config.output / "settings.json").unlink()  # the checkpoints are enough
    train(replace(config, max_steps=4))
    assert (config.output / "settings.json").exists()


BAD_STATES: list[tuple[dict[str, Any], str]] = [
    ({"step": -1}, "step is -1; it must be"),
    ({"step": 10**30}, "step is 1000"),
    ({"step": 3}, "is of step 3"),
    ({"step": "2"}, "step is"),
    ({"step": 2.5}, "step is 2.5"),
    ({"step": None}, "step is null"),
    ({"seed": -5}, "seed is -5"),
    ({"seed": True}, "seed is true"),
    ({"seed": 7}, r"seed is 7 and settings\.seed is 0; they must be the same"),
    ({"best_step": 9, "best_loss": 1.0}, "best_step is 9"),
    ({"best_loss": 1.0}, "best_loss is 1.0"),
    ({"best_loss": "low"}, "best_loss is"),
    ({"settings": None}, "settings is null"),
    ({"settings": []}, "settings is"),
    ({"data_fingerprint": 5}, "data_fingerprint is 5"),
    ({"base_fingerprint": ""}, "base_fingerprint is"),
    ({"written_by": "another"}, "written_by is"),
    ({"later": 1}, "later is unknown to this version"),
]
BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": "four"}, r"settings\.batch_size is"),
    ({"batch_size": 0}, r"settings\.batch_size is 0; it must be"),
    ({"epochs": "many"}, r"settings\.epochs is"),
    ({"max_steps": -4}, r"settings\.max_steps is -4"),
    ({"adam_betas": 0.9}, r"settings\.adam_betas is 0\.9"),
    ({"adam_betas": [0.9, 7]}, r"settings\.adam_betas is 7"),
    ({"init_adapter": 5}, r"settings\.init_adapter is 5"),
    ({"language": "full"}, r"settings\.language is"),
    ({"loss_scale": 2}, r"settings\.loss_scale is unknown"),
]


@pytest.mark.parametrize(("change", "message"), BAD_STATES)
def test_a_state_out_of_its_shape_is_refused(config: TrainConfig, change: dict[str, Any], message: str) -> None:
    path = config.output / "last" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(config, rf"checkpoint .*step-000002 is corrupt \(.*{message}.*; copy it again, or ")


@pytest.mark.parametrize(("change", "message"), BAD_SETTINGS)
def test_settings_out_of_their_shape_are_refused(config: TrainConfig, change: dict[str, Any], message: str) -> None:
    path = config.output / "last" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"settings": state["settings"] | change}))
    refused(config, rf"checkpoint .*step-000002 is corrupt \(.*{message}")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"step": NaN}', '{"step": 1, "step": 2}', "[" * 5000, "\ud800"])
def test_a_state_that_is_no_json_is_refused(config: TrainConfig, text: str) -> None:
    (config.output / "last" / "state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(config, r"checkpoint .*step-000002 is corrupt \(.*state\.json")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"\xff\xfe\n", "line 1 is not of a training's log"),
        (b'{"step": 1, "loss": 2.0}\n{"step"\n', "line 2"),
        (b'{"step": "1", "loss": 2.0}\n', "step is"),
        (b'{"step": 0, "loss": 2.0}\n', "step is 0"),
        (b'{"step": 1}\n', "has no loss"),
        (b"\n", "line 1"),
        (b"[1]\n", "line 1"),
    ],
)
def test_a_log_that_is_not_ours_is_refused_and_stays(config: TrainConfig, log: bytes, message: str) -> None:
    (config.output / "log.jsonl").write_bytes(log)
    refused(config, rf"log\.jsonl.*{message}.*remove the line, or move the file elsewhere")


def test_a_log_that_leads_elsewhere_is_not_written(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine\n")
    (config.output / "log.jsonl").unlink()
    (config.output / "log.jsonl").symlink_to(tmp_path / "diary")
    refused(config, r"log\.jsonl is no file of a training")


def _out(output: Path, name: str) -> None:
    shutil.copytree(output / "step-000002", output.parent / "step-000002")
    (output / name).symlink_to("../step-000002")


PLACES: list[tuple[Callable[[Path, str], Any], str]] = [
    (_out, r"links to \.\./step-000002, which is no checkpoint of this training"),
    (lambda output, name: (output / name).symlink_to("/"), "links to /, which is no checkpoint"),
    (lambda output, name: (output / name).symlink_to("step-000009"), "links to step-000009, which is not there"),
    (lambda output, name: (output / name).symlink_to(name), "which is no checkpoint of this training"),
    (lambda output, name: (output / name).write_text("step-000002"), r"is a file, not a link to a checkpoint; .*ln -sfn step"),
    (lambda output, name: (output / name).mkdir(), "is a folder without a checkpoint"),
]


@pytest.mark.parametrize(("make", "message"), PLACES)
def test_a_link_that_names_no_checkpoint_is_refused(
    config: TrainConfig, make: Callable[[Path, str], Any], message: str
) -> None:
    (config.output / "last").unlink()
    make(config.output, "last")
    refused(config, message)


def test_a_best_that_was_lost_is_linked_again_or_named(config: TrainConfig) -> None:
    (config.output / "best").unlink()
    (config.output / "best").symlink_to("step-000009")
    train(config)  # without validation the last is the best, and it is there
    assert os.readlink(config.output / "best") == "step-000003"
    state = config.output / "last" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"best_step": 1, "best_loss": 0.5}))
    (config.output / "best").unlink()
    refused(replace(config, max_steps=4), "best is missing; link it again: ln -sfn step-000003")


def test_links_that_were_copied_as_folders_go_on(trained: TrainConfig, tmp_path: Path) -> None:
    output = Path(shutil.copytree(trained.output, tmp_path / "copy"))  # follows links, as many tools do
    assert not (output / "last").is_symlink()
    train(replace(trained, output=output, max_steps=3, resume=True))
    assert os.readlink(output / "last") == os.readlink(output / "best") == "step-000003"
    assert {path.name for path in output.glob("step-*")} == {"step-000003"}


def test_a_finished_run_killed_before_it_tidied_up_is_tidied_up(config: TrainConfig) -> None:
    shutil.copytree(config.output / "step-000002", config.output / "step-000001")
    state = config.output / "step-000001" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"step": 1}))
    for link in ("last", "best"):
        (config.output / link).unlink()
    train(replace(config, max_steps=2))
    assert {path.name for path in config.output.glob("step-*")} == {"step-000002"}
    assert os.readlink(config.output / "last") == os.readlink(config.output / "best") == "step-000002"


def test_a_run_killed_before_its_first_link_goes_on(config: TrainConfig) -> None:
    (config.output / "last").unlink()
    (config.output / "best").unlink()
    with pytest.raises(UserError, match="add --resume"):
        train(replace(config, resume=False))
    train(config)
    assert [json.loads(line)["step"] for line in (config.output / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("name", ["adapter_config.json", ADAPTER, OPTIMIZER, "state.json"])
@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_missing_or_leads_elsewhere_is_refused(config: TrainConfig, name: str, link: bool) -> None:
    path = config.output / "step-000002" / name
    away = Path(shutil.move(path, config.output.parent / name))
    if link:
        path.symlink_to(away)
    refused(config, rf"checkpoint .*step-000002 is corrupt \({name} is missing or no file\)")


def _drop(tensors: dict[str, np.ndarray], name: str) -> None:
    del tensors[name]


TENSORS: list[tuple[Callable[[dict[str, np.ndarray], str], Any], str]] = [
    (_drop, "{name} is missing"),
    (lambda tensors, name: tensors.update({name: tensors[name][:1]}), r"{name} is \[1, .*\], not \["),
    (lambda tensors, name: tensors.update({name: tensors[name].T.copy()}), r"{name} is \["),
    (lambda tensors, name: tensors.update({name: tensors[name].astype(np.float16)}), "{name} is of dtype F16; it must be F32"),
    (lambda tensors, name: tensors.update({name: tensors[name].astype(np.int8)}), "{name} is of dtype I8"),
    (lambda tensors, name: tensors.update({name: np.full_like(tensors[name], np.nan)}), "{name} holds NaN"),
    (lambda tensors, name: tensors.update({name: np.full_like(tensors[name], np.inf)}), "{name} holds NaN or infinite"),
    (lambda tensors, name: tensors.update({"another": np.zeros(2, np.float32)}), "another is none of this adapter's"),
]


@pytest.mark.parametrize("file", [ADAPTER, OPTIMIZER])
@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_tensors_that_are_not_the_models_are_refused(
    config: TrainConfig, file: str, change: Callable[[dict[str, np.ndarray], str], Any], message: str
) -> None:
    path = config.output / "last" / file
    tensors = load_file(path)
    name = min(tensors)
    change(tensors, name)
    save_file(tensors, path)
    refused(config, rf"checkpoint .*step-000002 is corrupt \(.*{message.format(name=name)}")


def test_negative_squares_are_refused(config: TrainConfig) -> None:
    path = config.output / "last" / OPTIMIZER
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("exp_avg_sq"))
    tensors[name] = -1 - np.abs(tensors[name])
    save_file(tensors, path)
    refused(config, "has negative numbers")


def test_offsets_that_overlap_are_refused(config: TrainConfig) -> None:
    path = config.output / "last" / OPTIMIZER
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    first, second = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])[:2]
    header[second] = header[first]
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])
    refused(config, r"is corrupt \(.*overlaps")


def test_a_full_disk_names_the_file_and_the_checkpoint_that_is_good(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(config.output / "step-000002")
    save = safetensors.numpy.save_file

    def full(tensors: Any, path: Any, metadata: Any = None) -> None:
        if OPTIMIZER in str(path):
            raise OSError(28, "No space left on device", str(path))
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", full)
        with pytest.raises(UserError) as error:
            train(config)
    assert str(error.value) == (
        f"cannot write {config.output}/step-000003/{OPTIMIZER}: No space left on device; free some space or choose another "
        f"folder; the last good checkpoint is {config.output}/step-000002; --resume goes on from there"
    )
    assert contents(config.output / "step-000002") == whole and os.readlink(config.output / "last") == "step-000002"
    train(config)
    assert os.readlink(config.output / "last") == "step-000003"
