"""A run continues where it stopped: settings that only save memory may change, and a changed learning rate is reported."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v.adapters import adapter_shapes
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from mlx_phi3v.trained_task import TrainedTask
from mlx_phi3v.training import loop
from mlx_phi3v.training.checkpoints import Checkpoints
from mlx_phi3v.training.footprint import footprint
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.row_lengths import measure_rows
from mlx_phi3v.training.step_shape import StepSettings, largest_batch
from mlx_phi3v.training.train_config import TrainConfig
from tests.mlx_phi3v.training.test_train import adapter_of, log, same_run


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path, backend_name: str) -> TrainConfig:
    """Four steps of two batches of 5 rows, on 12 rows: [5 5] [2 5] [5 2] [5 5]; the language model only."""
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend=backend_name, dtype="float32",
        max_steps=4, batch_size=5, grad_accumulation_steps=2, learning_rate=3e-3, warmup_steps=1, r=4, lora_alpha=8,
        vision="off", projector="off", num_crops=1, steps_per_report=1, val_rows=0, save_every=2,
    )  # fmt: skip


def interrupted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, after: int = 2) -> TrainConfig:
    """The run stopped after the checkpoint of step `after`, to be resumed."""
    save = Checkpoints.save

    def stop(self: Checkpoints, state: Any, *arguments: Any) -> Path:
        folder = save(self, state, *arguments)
        if state.step == after:
            raise KeyboardInterrupt
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    return replace(config, resume=True)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The passes of every step that is taken."""
    steps: list[list[list[int]]] = []
    take = loop.take_step

    def taken(passes: Any) -> Any:
        step = take(passes)
        steps.append([part.rows for part in step])
        return step

    monkeypatch.setattr(loop, "take_step", taken)
    return steps


def edit_state(folder: Path, **changes: Any) -> None:
    """Change the settings in the last checkpoint's state.json; None removes one."""
    path = folder / "last" / "state.json"
    state = json.loads(path.read_text())
    state["settings"] = {key: value for key, value in (state["settings"] | changes).items() if value != "removed"}
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 10, "grad_accumulation_steps": 1},
        {"batch_size": 2, "grad_accumulation_steps": 5},
        {"batch_size": 1, "grad_accumulation_steps": 10, "grad_checkpoint": True, "max_length": 4000},
    ],
)
def test_another_split_into_passes_goes_on_with_the_same_rows_and_losses(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: list[list[list[int]]], change: dict[str, Any]
) -> None:
    train(replace(config, output=config.output.with_name("whole")))
    whole = [list(itertools.chain(*step)) for step in seen]
    assert [len(rows) for rows in whole] == [10, 7, 7, 10]
    seen.clear()
    train(replace(interrupted(config, monkeypatch), **change))
    assert [list(itertools.chain(*step)) for step in seen] == whole
    assert max(len(rows) for step in seen[2:] for rows in step) == change["batch_size"]
    for mine, other in zip(log(config.output), log(config.output.with_name("whole")), strict=True):
        assert mine["answer_tokens"] == other["answer_tokens"]
        # fp32 sums of the same terms in another order, through two updates: 1e-4 as for accumulation against one batch.
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
    settings = json.loads((config.output / "settings.json").read_text())
    assert settings["batch_size"] == change["batch_size"]
    # The run's first settings are in its state, so it may be split once more, and go back.
    assert json.loads((config.output / "last" / "state.json").read_text())["settings"]["batch_size"] == 5
    assert train(replace(config, resume=True))["steps"] == 4


def test_another_number_of_rows_a_step_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = interrupted(config, monkeypatch)
    with pytest.raises(UserError, match=r"a step of this run has 10 rows \(batch_size 5 x grad_accumulation_steps 2\) .* now"):
        train(replace(begun, batch_size=5, grad_accumulation_steps=1))


def test_checkpointing_changes_no_number_with_dropout_either(config: TrainConfig) -> None:
    dropping = replace(config, lora_dropout=0.3, max_steps=2, warmup_steps=0, vision="lora")
    train(replace(dropping, output=config.output.with_name("plain")))
    train(replace(dropping, grad_checkpoint=True))
    for mine, other in zip(log(config.output), log(config.output.with_name("plain")), strict=True):
        # The same sums, computed twice; another mask in the second computation moves the norm by a percent and more.
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_other_dropout_masks_are_reported(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = interrupted(replace(config, lora_dropout=0.1), monkeypatch)
    train(replace(begun, batch_size=10, grad_accumulation_steps=1))
    assert "passes of 10 rows instead of 5 draw other dropout masks" in capsys.readouterr().err


def test_a_memory_limit_may_change_and_splits_no_step_otherwise(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: list[list[list[int]]]
) -> None:
    if config.backend != "mlx":
        pytest.skip("--memory-limit plans for MLX")
    config = replace(config, batch_size=8, grad_accumulation_steps=1)
    model = load_model_config(config.model)
    maker = ExampleMaker(PromptProcessor(config.model), model, Task(), 1)
    lengths = measure_rows(Catalogue(config.data).split("train"), maker).lengths(1, model.vision)
    training = StepSettings(config.adapter(), "float32", False, cpu=True)
    limits = {rows: footprint(model, largest_batch(lengths, rows), training).process * 1.000001 / 1e9 for rows in (2, 8)}
    begun = interrupted(replace(config, memory_limit=limits[2]), monkeypatch)
    assert [[len(rows) for rows in step] for step in seen] == [[2, 2, 2, 2], [2, 2]]
    train(replace(begun, memory_limit=limits[8]))
    assert [[len(rows) for rows in step] for step in seen[2:]] == [[8], [4]]
    assert [list(itertools.chain(*step)) for step in seen[2:]] == [
        list(itertools.chain(*batches)) for batches in itertools.islice(_order(config).steps(2), 2)
    ]
    # A run of an earlier version, which stored the choice of the limit: its rows were drawn by that, and still are.
    seen.clear()
    begun = interrupted(replace(config, output=config.output.with_name("old"), memory_limit=limits[2]), monkeypatch)
    edit_state(begun.output, batch_size=2, grad_accumulation_steps=4, grad_checkpoint=False, init_adapter="removed")
    train(replace(begun, memory_limit=limits[8]))
    assert [len(rows) for rows in seen[2]] == [8]
    old = _order(replace(config, batch_size=2, grad_accumulation_steps=4))
    assert list(itertools.chain(*seen[2])) == list(itertools.chain(*next(old.steps(2))))


def _order(config: TrainConfig) -> Any:
    from mlx_phi3v.training.row_order import RowOrder

    return RowOrder(12, config.batch_size, config.grad_accumulation_steps, config.seed)


def test_a_constant_rate_goes_on_as_if_more_had_been_asked_for_at_once(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = replace(config, lr_schedule="constant", max_steps=None, epochs=2.0)
    whole = replace(constant, output=config.output.with_name("whole"), epochs=4.0)
    assert train(constant)["steps"] == 3 and train(whole)["steps"] == 6
    assert "note" not in capsys.readouterr().err
    assert train(replace(constant, epochs=4.0, resume=True))["steps"] == 6
    assert capsys.readouterr().err.strip() == (
        "note: --resume: the run now ends after 6 steps instead of 3; the learning rate is constant and stays 0.003"
    )
    same_run(config.output, whole.output)
    train(replace(constant, epochs=4.0, resume=True))  # nothing is left to do, and nothing has changed
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("schedule", "rates"),
    # Warm-up of one step, then 3e-3 down to 0 over steps 1 to 4, or over 1 to 8: step 4 has (4 - 1) / (8 - 1) behind it.
    [("linear", ("0.00171", "0")), ("cosine", ("0.00183", "0"))],
)
def test_a_longer_schedule_is_recomputed_and_reported(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], schedule: str, rates: tuple[str, str]
) -> None:
    config = replace(config, lr_schedule=schedule)
    train(config)
    train(replace(config, max_steps=8, resume=True))
    assert capsys.readouterr().err.strip() == (
        f"note: --resume: the run now ends after 8 steps instead of 4, and the {schedule} schedule is computed over 8: "
        f"the learning rate of step 5 is {rates[0]}, it would have been {rates[1]}"
    )
    whole = replace(config, max_steps=8, output=config.output.with_name("whole"))
    train(whole)
    ours, theirs = ([record["learning_rate"] for record in log(folder)] for folder in (config.output, whole.output))
    assert ours[4:] == theirs[4:] and ours[2:4] != theirs[2:4]
    assert json.loads((config.output / "settings.json").read_text())["total_steps"] == 8


def test_fewer_steps_than_are_done_is_one_clear_sentence(config: TrainConfig) -> None:
    train(config)
    for change, asked in (
        ({"max_steps": 3}, "--max-steps 3 asks for 3"),
        ({"max_steps": None, "epochs": 1.0}, "--epochs 1 asks"),
    ):
        with pytest.raises(UserError, match=f"4 steps are done and {asked}"):
            train(replace(config, resume=True, **change))


def test_fewer_steps_than_planned_end_the_run_earlier(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = interrupted(config, monkeypatch)
    assert train(replace(begun, max_steps=3))["steps"] == 3
    assert "ends after 3 steps instead of 4, and the linear schedule" in capsys.readouterr().err
    assert [record["step"] for record in log(config.output)] == [1, 2, 3]


def test_every_checkpoint_says_what_it_was_trained_to_answer(config: TrainConfig, small_catalogue: Path) -> None:
    train(replace(config, num_crops=2, val_rows=2, steps_per_eval=2))
    task = TrainedTask(Catalogue(small_catalogue).task, 2, "float32")
    folders = list(config.output.glob("step-*"))
    assert folders and all(TrainedTask.load(folder) == task for folder in folders)
    default = replace(config, output=config.output.with_name("default"), num_crops=None, max_steps=1)
    train(default)
    loaded = TrainedTask.load(default.output / "best")
    assert loaded is not None and loaded.num_crops == load_model_config(config.model).num_crops


def test_a_checkpoint_of_an_earlier_version_goes_on(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    train(replace(config, output=config.output.with_name("whole")))
    begun = interrupted(config, monkeypatch)
    (begun.output / "last" / "task.json").unlink()
    edit_state(begun.output, init_adapter="removed")
    train(begun)
    same_run(config.output, config.output.with_name("whole"))
    assert TrainedTask.load(config.output / "last") is not None


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    begun = interrupted(config, monkeypatch)
    path = begun.output / "last" / file
    tensors = load_file(path)
    lost = min(tensors)
    save_file({key: value for key, value in tensors.items() if key != lost}, path, {"format": "pt"})
    with pytest.raises(UserError, match=rf"checkpoint .*step-000002 is corrupt \(tensor {lost} is missing\)"):
        train(begun)
    save_file({key: value[:1] if key == lost else value for key, value in tensors.items()}, path, {"format": "pt"})
    with pytest.raises(UserError, match=rf"corrupt \(tensor {lost} is \[1, \d+\], not \[4, \d+\]\)"):
        train(begun)
    assert set(adapter_of(begun.output, "best")) <= set(
        adapter_shapes(load_model_config(config.model), config.adapter()).tensors
    )
