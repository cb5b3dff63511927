"""Training: one loop, the same numbers on both backends, and no kill, crash or mistake costs more than its step."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from mlx_phi3v import files
from mlx_phi3v.adapters import AdapterArgs, resolve_adapter
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import ExampleMaker, collate, epoch_order
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.training import checkpoints as checkpoints_module
from mlx_phi3v.training import report_channel
from mlx_phi3v.training.checkpoints import Checkpoints
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.row_order import total_steps
from mlx_phi3v.training.train_config import TrainConfig
from mlx_phi3v.training.train_state import TrainState
from tests.helpers.catalogue import write_catalogue
from tests.helpers.here import run_here
from tests.helpers.loggers import FakeLogger
from tests.helpers.paths import ROOT
from tests.helpers.several_ranks import LOOPBACK, ports_in_a_row

KILLS, STEPS = 10, 40


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path, backend_name: str) -> TrainConfig:
    """Six steps with everything on: dropout, accumulation, full modules, validation."""
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend=backend_name, dtype="float32",
        max_steps=6, batch_size=3, grad_accumulation_steps=2, learning_rate=5e-3, warmup_steps=2, r=4, lora_alpha=8,
        lora_dropout=0.1, projector="full", separators="full", num_crops=2, steps_per_report=1, steps_per_eval=2,
        val_rows=3, save_every=2,
    )  # fmt: skip


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def adapter_of(folder: Path, which: str = "last") -> dict[str, np.ndarray]:
    return load_file(folder / which / "adapter_model.safetensors")


def same_run(ours: Path, theirs: Path) -> None:
    """Everything a run leaves is the same, bit for bit, but for clocks and memory."""
    for which in ("last", "best"):
        for file in ("adapter_model.safetensors", "optimizer.safetensors"):
            mine, other = (load_file(folder / which / file) for folder in (ours, theirs))
            assert mine.keys() == other.keys()
            for key, value in other.items():
                np.testing.assert_array_equal(mine[key], value, err_msg=f"{which} {key}")
        states = [json.loads((folder / which / "state.json").read_text()) for folder in (ours, theirs)]
        for state in states:
            state["settings"].pop("output"), state["settings"].pop("resume"), state["settings"].pop("json")
        assert states[0] == states[1]
    varying = ("rows_per_second", "data_wait", "peak_gb")
    logs = [[{k: v for k, v in record.items() if k not in varying} for record in log(folder)] for folder in (ours, theirs)]
    assert logs[0] == logs[1]
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())


def test_a_run_that_is_reported_has_the_same_numbers(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both backends: answers in between take no random number and leave no weight changed."""
    config = replace(config, max_steps=4)
    train(config)
    fake = FakeLogger()
    monkeypatch.setattr(report_channel, "open_logger", lambda name, run: fake.opened(run))
    reported = replace(config, output=config.output.parent / "reported", report_to=("tensorboard",), report_rows=2)
    train(reported)
    assert [call for call in fake.calls if call[0] == "answers"] == [("answers", 2), ("answers", 4)]
    for which in ("last", "best"):
        ours, theirs = adapter_of(config.output, which), adapter_of(reported.output, which)
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in theirs.items()
        }
    assert [line["loss"] for line in log(config.output)] == [line["loss"] for line in log(reported.output)]


def test_a_run_leaves_adapter_log_and_checkpoints(config: TrainConfig) -> None:
    summary = train(config)
    assert summary["steps"] == 6 and [record["step"] for record in log(config.output)] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in log(config.output) if "val_loss" in record] == [2, 4, 6]
    losses = {record["step"]: record["val_loss"] for record in log(config.output) if "val_loss" in record}
    best = min(losses, key=lambda step: losses[step])
    assert summary["best_step"] == best and summary["best_loss"] == losses[best]
    assert (config.output / "best").resolve().name == f"step-{best:06d}"
    assert (config.output / "last").resolve().name == "step-000006"
    names = {p.name for p in config.output.iterdir()}
    assert names == {"log.jsonl", "settings.json", "last", "best", f"step-{best:06d}", "step-000006"}
    assert resolve_adapter(config.output) == config.output / "best"
    assert [record["learning_rate"] for record in log(config.output)][:3] == [0.0, 2.5e-3, 5e-3]
    assert log(config.output)[-1]["loss"] < log(config.output)[0]["loss"]


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_goes_on_bit_for_bit(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    train(replace(config, output=config.output.with_name("whole")))
    saves = []
    save = Checkpoints.save

    def interrupted(self: Checkpoints, *arguments: Any) -> Path:
        saves.append(save(self, *arguments))
        if len(saves) == after:
            raise KeyboardInterrupt
        return saves[-1]

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    with open(config.output / "log.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # what a run killed later leaves behind
    (config.output / ".step-000004.mlx_phi3v.tmp").mkdir()
    (config.output / ".step-000004.mlx_phi3v.old").mkdir()
    train(replace(config, resume=True))
    same_run(config.output, config.output.with_name("whole"))
    again = train(replace(config, resume=True))  # a finished run has nothing left to do
    assert again["steps"] == 6
    same_run(config.output, config.output.with_name("whole"))


def until_it_writes(process: subprocess.Popen[str], output: Path) -> None:
    """Wait for a checkpoint that is being written, which lasts a moment only, or for the end of the process."""
    while not any(output.glob(".*.tmp")) and process.poll() is None:
        time.sleep(0.0005)


# slow: torch takes ten seconds to start, eleven times; what is written, and when, is the same code on both.
@pytest.mark.parametrize("backend_name", ["mlx", pytest.param("torch", marks=pytest.mark.slow)], indirect=True)
def test_ten_kills_at_random_moments_change_nothing(
    backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path
) -> None:
    flags = ["--backend", backend_name, "--model", checkpoint, "--data", small_catalogue, "--max-steps", STEPS,
             "--batch-size", 2, "--save-every", 1, "--steps-per-report", 1, "--steps-per-eval", 5, "--val-rows", 2,
             "--warmup-steps", 1, "--r", 2, "--num-crops", 1, "--learning-rate", "3e-3", "--lora-dropout", 0.1,
             "--vision", "off", "--json"]  # fmt: skip
    command = [sys.executable, "-m", "mlx_phi3v.train", *map(str, flags)]
    whole = [*command, "--output", str(tmp_path / "whole")]
    assert subprocess.run(whole, capture_output=True, timeout=300).returncode == 0
    seconds = random.Random(7)
    killed = [*command, "--output", str(tmp_path / "killed"), "--resume"]
    cut = 0
    for kill in range(KILLS):
        process = subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        # Some steps after it has begun (the first kill, before), then at any moment of a step or of writing a checkpoint.
        waiting = seconds.randrange(1, 4) if kill else 0
        for line in process.stdout if waiting else ():
            waiting -= json.loads(line)["event"] == "step"
            if not waiting:
                break
        if kill % 2:  # every other kill falls into the writing of a checkpoint
            until_it_writes(process, tmp_path / "killed")
        else:
            time.sleep(seconds.uniform(0, 0.03))
        process.kill()
        assert process.wait() in (-9, 0), process.stderr.read()  # 0: a busy machine looked away until it was done
        process.stdout.close(), process.stderr.close()
        cut += any((tmp_path / "killed").glob(".*.tmp"))
    steps = json.loads((tmp_path / "killed" / "last" / "state.json").read_text())["step"]
    assert 0 < steps <= STEPS  # how many kills fall into the writing is a matter of luck; test_kills.py kills at each write
    assert subprocess.run(killed, capture_output=True, timeout=300).returncode == 0
    same_run(tmp_path / "killed", tmp_path / "whole")
    print(f"{backend_name}: {cut} of {KILLS} kills fell into the writing of a checkpoint; {steps} of {STEPS} steps were done")


# slow: torch takes ten seconds to start, four times.
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("backend_name", ["mlx", pytest.param("torch", marks=pytest.mark.slow)], indirect=True)
def test_a_training_ends_at_a_signal_and_goes_on(
    backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path
) -> None:
    flags = ["--backend", backend_name, "--model", checkpoint, "--data", small_catalogue, "--max-steps", STEPS,
             "--batch-size", 2, "--save-every", 2, "--steps-per-report", 1, "--steps-per-eval", 5, "--val-rows", 2,
             "--warmup-steps", 1, "--r", 2, "--num-crops", 1, "--lora-dropout", 0.1, "--vision", "off", "--json"]  # fmt: skip
    command = [sys.executable, "-m", "mlx_phi3v.train", *map(str, flags)]
    whole = subprocess.run([*command, "--output", str(tmp_path / "whole")], cwd=ROOT, capture_output=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    resumed = [*command, "--output", str(tmp_path / "ended"), "--resume"]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(resumed, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("step", 0) % 5 == 4:  # two steps behind the last checkpoint
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (128 + number, "interrupted\n")
        assert not psutil.wait_procs(children, timeout=60)[1]
    assert 0 < json.loads((tmp_path / "ended" / "last" / "state.json").read_text())["step"] < STEPS
    assert subprocess.run(resumed, cwd=ROOT, capture_output=True, timeout=300).returncode == 0
    same_run(tmp_path / "ended", tmp_path / "whole")


class Crash(BaseException):
    """Stands for the moment at which a process dies."""


def test_a_checkpoint_cut_at_any_moment_leaves_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = AdapterArgs(r=2)

    def save(output: Path, step: int, best: int) -> None:
        tensors = {"base_model.model.a.lora_A.weight": np.full((2, 2), step, np.float32)}
        state = TrainState(step, 0, 1.0, best, {}, "data", "base")
        Checkpoints(output).save(state, adapter, tensors, {"moment": np.full(2, step, np.float32)})

    def value(output: Path, which: str) -> float:
        return float(load_file(output / which / "adapter_model.safetensors")["base_model.model.a.lora_A.weight"][0, 0])

    seen = set()
    for moment in range(1, 40):
        output = tmp_path / str(moment)
        save(output, 1, 1)
        save(output, 2, 1)
        calls = 0

        def dying(call: Callable[..., Any], moment: int = moment) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls >= moment:  # the dead do not tidy up either
                    raise Crash
                return call(*arguments, **options)

            return run

        with monkeypatch.context() as patch:
            for module, name in ((files.os, "replace"), (files.os, "fsync"), (files.shutil, "rmtree"), (Path, "unlink")):
                patch.setattr(module, name, dying(getattr(module, name)))
            patch.setattr(checkpoints_module.Path, "symlink_to", dying(Path.symlink_to))
            with contextlib.suppress(Crash):
                save(output, 3, 3)
            finished = calls < moment
        files.sweep(output)
        assert not list(output.glob(".*"))
        state, tensors, optimizer = Checkpoints(output).load()
        assert (
            tensors["base_model.model.a.lora_A.weight"][0, 0] == optimizer["moment"][0] == state.step == value(output, "last")
        )
        assert state.step in (2, 3) and value(output, "best") in (1, 3)
        if state.step == 3:  # what `last` says is the best must be what `best` holds
            assert value(output, "best") == 3
        seen.add((state.step, value(output, "best")))
        save(output, 3, 3)
        assert value(output, "last") == value(output, "best") == 3
        if finished:
            break
    assert finished and {(2, 1.0), (2, 3.0), (3, 3.0)} <= seen


@pytest.mark.numeric
def test_accumulation_equals_the_large_batch(config: TrainConfig) -> None:
    plain = replace(config, lora_dropout=0.0, max_steps=4, learning_rate=1e-3)
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        folder = config.output.with_name(f"batch{batch_size}")
        train(replace(plain, output=folder, batch_size=batch_size, grad_accumulation_steps=accumulation))
    large = adapter_of(config.output.with_name("batch4"))
    for batch_size in (2, 1):
        folder = config.output.with_name(f"batch{batch_size}")
        for key, value in adapter_of(folder).items():
            np.testing.assert_allclose(value, large[key], atol=2e-5, err_msg=key)
        for mine, other in zip(log(folder), log(config.output.with_name("batch4")), strict=True):
            assert mine["answer_tokens"] == other["answer_tokens"]
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.numeric
def test_the_loss_weighs_every_answer_token_alike(config: TrainConfig) -> None:
    train(replace(config, max_steps=1, lora_dropout=0.0))
    backend = load_backend(config.backend, Path(config.model), dtype="float32")
    catalogue = Catalogue(config.data)
    maker = ExampleMaker(PromptProcessor(config.model), backend.config, catalogue.task, 2)
    rows = epoch_order(12, 0, config.seed)[:6]
    sums = []
    for row in rows:
        batch = collate([maker(catalogue.split("train")[int(row)], with_answer=True)], backend.config)
        sums.append((backend.loss(batch), batch.answer_tokens))
    losses, tokens = np.array(sums).T
    [record] = log(config.output)
    assert record["answer_tokens"] == tokens.sum() and len(set(tokens)) > 1
    assert record["loss"] == pytest.approx(losses.sum() / tokens.sum(), rel=1e-5)
    assert abs((losses / tokens).mean() / record["loss"] - 1) > 1e-4  # the mean of the rows' means is another number


@pytest.mark.numeric
def test_both_backends_see_the_same_rows_and_learn_the_same(config: TrainConfig) -> None:
    runs = {}
    for backend in ("mlx", "torch"):
        pytest.importorskip(backend)
        runs[backend] = config.output.with_name(backend)
        train(replace(config, backend=backend, output=runs[backend], lora_dropout=0.0, max_steps=8, grad_accumulation_steps=1))
    for ours, theirs in zip(log(runs["mlx"]), log(runs["torch"]), strict=True):
        assert (ours["step"], ours["answer_tokens"], ours["learning_rate"]) == (
            theirs["step"], theirs["answer_tokens"], theirs["learning_rate"]
        )  # fmt: skip
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ("val_loss" in ours) == ("val_loss" in theirs)
        assert ours.get("val_loss", 0) == pytest.approx(theirs.get("val_loss", 0), rel=1e-3)
    ours, theirs = (adapter_of(folder) for folder in runs.values())
    vectors = [np.concatenate([tensors[key].ravel() for key in sorted(tensors)]) for tensors in (ours, theirs)]
    assert vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]) > 0.9999


@pytest.mark.parametrize("full", [False, True])
def test_what_is_switched_off_is_not_trained(config: TrainConfig, full: bool) -> None:
    choice: dict[str, Any] = {"language": "off", "vision": "off", "projector": "lora", "separators": "full" if full else "off"}
    train(replace(config, max_steps=1, lm_head="lora", **choice))
    modules = {key.removeprefix("base_model.model.").split(".lora_")[0] for key in adapter_of(config.output)}
    expected = {"lm_head", *(f"model.vision_embed_tokens.img_projection.{i}" for i in (0, 2))}
    separators = {f"model.vision_embed_tokens.{name}.weight" for name in ("glb_GN", "sub_GN")}
    assert modules == expected | (separators if full else set())


@pytest.fixture
def begun(config: TrainConfig) -> TrainConfig:
    """A run of two steps."""
    config = replace(config, max_steps=2, val_rows=0)
    train(config)
    return replace(config, resume=True)


def test_a_run_is_not_overwritten_or_gone_on_with_differently(
    begun: TrainConfig, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"run holds a training run; add --resume"):
        train(replace(begun, resume=False))
    for change, message in (
        ({"learning_rate": 1e-4}, r"learning_rate was 0\.005 and is now 0\.0001"),
        ({"r": 8}, "r was 4 and is now 8"),
        ({"batch_size": 6}, r"a step of this run has 6 rows .*batch_size 3 x grad_accumulation_steps 2.* would now have 12"),
        ({"model": str(make_checkpoint(seed=1))}, "model was"),
        ({"data": write_catalogue(tmp_path / "other", {"train": 5})}, "the catalogue is another one"),
    ):
        with pytest.raises(UserError, match=message):
            train(replace(begun, **change))
    train(replace(begun, steps_per_report=7, save_every=9))  # what does not touch the numbers may change


def test_another_base_under_the_same_name_is_refused(begun: TrainConfig, make_checkpoint: Callable[..., Path]) -> None:
    state = json.loads((begun.output / "last" / "state.json").read_text())
    other = make_checkpoint(seed=1)
    state["settings"]["model"] = str(other)
    (begun.output / "last" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="the base model is another one"):
        train(replace(begun, model=str(other)))


def test_a_corrupt_checkpoint_is_named(begun: TrainConfig) -> None:
    file = begun.output / "last" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"checkpoint .*step-000002 is corrupt"):
        train(begun)


def test_a_loss_that_is_not_finite_stops_with_step_rows_and_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = type(load_backend(config.backend, Path(config.model)))
    accumulate = cls.accumulate
    calls = []

    def broken(self: Any, batch: Any) -> Any:
        calls.append(batch.ids)
        return float("nan") if len(calls) == 8 else accumulate(self, batch)

    monkeypatch.setattr(cls, "accumulate", broken)
    with pytest.raises(UserError) as error:
        train(config)
    rows = [identity.removeprefix("train-") for identity in calls[-1]]
    message = str(error.value)
    assert f"loss is nan at step 4, rows {', '.join(rows)} of the train split" in message
    assert f"the last good checkpoint is {config.output / 'step-000002'};" in message and "\n" not in message
    assert Checkpoints(config.output).load()[0].step == 2


@pytest.mark.parametrize("val_rows", [0, 3])
def test_a_rate_that_is_far_too_high_leaves_no_unusable_checkpoint(config: TrainConfig, val_rows: int) -> None:
    wild = replace(config, learning_rate=1e30, warmup_steps=0, save_every=1, val_rows=val_rows, steps_per_eval=1)
    with pytest.raises(UserError, match=r"(validation loss|loss after the update|loss) is .*no checkpoint was written yet"):
        train(wild)
    assert not (config.output / "last").exists() and not list(config.output.glob("step-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"grad_accumulation_steps": 0}, "--grad-accumulation-steps is 0"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"num_crops": 0}, "--num-crops is 0"),
        ({"learning_rate": 0.0}, r"--learning-rate is 0\.0"),
        ({"lora_dropout": 1.0}, r"--lora-dropout is 1\.0"),
        ({"adam_betas": (0.9,)}, "--adam-betas takes two numbers"),
        ({"max_steps": None, "epochs": 0.0}, r"--epochs is 0\.0"),
        ({"language": "off", "vision": "off", "projector": "full"}, "set at least one of them to lora"),
        ({"max_length": 10}, "12 of 12 rows of split 'train' take more than 10 tokens .*row 'train-.*raise --max-length"),
    ],
)
def test_settings_that_make_no_sense_are_named(config: TrainConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config, **change))
    assert not (config.output / "last").exists()


def test_steps_follow_from_epochs(config: TrainConfig) -> None:
    plain = replace(config, max_steps=None, batch_size=4, grad_accumulation_steps=1)
    assert total_steps(plain, 12) == 3 and total_steps(plain, 13) == 4
    assert total_steps(replace(plain, epochs=2.5), 12) == 8 and total_steps(replace(plain, epochs=0.01), 12) == 1
    assert total_steps(replace(plain, grad_accumulation_steps=2), 16) == 2


# slow: torchrun starts torch four times; test_several_ranks.py trains on three ranks of both backends, one without a row.
@pytest.mark.parametrize("backend_name", ["mlx", pytest.param("torch", marks=pytest.mark.slow)], indirect=True)
def test_two_ranks_learn_what_one_does(backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    # 12 rows in batches of 11 and 1: in every second step one rank has no row at all.
    flags = ["--backend", backend_name, "--model", checkpoint, "--data", small_catalogue, "--max-steps", 4, "--batch-size", 11,
             "--warmup-steps", 0, "--lora-rank", 2, "--num-crops", 1, "--val-rows", 3, "--steps-per-report", 1,
             "--learning-rate", "1e-3"]  # fmt: skip
    training = list(map(str, flags))
    launcher = {
        "mlx": [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring",
                "--starting-port", str(ports_in_a_row(2)), "--", sys.executable],
        "torch": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    }[backend_name]  # fmt: skip
    if not shutil.which(launcher[0]):
        pytest.skip(f"{launcher[0]} is not installed")
    # Loopback names: torchrun otherwise asks the resolver for this machine's own.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": LOOPBACK}
    command = [*launcher, "-m", "mlx_phi3v.train", *training, "--output", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert run_here("mlx_phi3v.train", *training, "--output", tmp_path / "one").returncode == 0
    for mine, other in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert (mine["step"], mine["answer_tokens"]) == (other["step"], other["answer_tokens"])
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert ("val_loss" in mine) == ("val_loss" in other)
        assert mine.get("val_loss", 0) == pytest.approx(other.get("val_loss", 0), rel=1e-4)
    one = adapter_of(tmp_path / "one")
    for key, value in adapter_of(tmp_path / "two").items():
        np.testing.assert_allclose(value, one[key], atol=1e-4, err_msg=key)
