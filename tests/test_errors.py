"""As a user meets them: every mistake is one sentence that names the file or flag, and nothing is left half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.backend import load_backend, set_up
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from tests.helpers.catalogue import random_picture, write_catalogue
from tests.helpers.here import run_here


def fails(module: str, *arguments: object) -> str:
    """The one line that the failing command prints."""
    done = run_here(module, *arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    assert "Traceback" not in done.stdout and len(lines[0]) < 1200
    return lines[0]


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """A folder that must be as empty afterwards as before."""
    folder = tmp_path / "space"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == [], "something was left half-written"


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """A fresh adapter of the default checkpoint."""
    config = AdapterArgs(r=2, base_model_name_or_path="the-base")
    tensors = {key: value + 0.01 for key, value in init_adapter(load_model_config(checkpoint), config, 0).items()}
    save_adapter(tmp_path / "adapter", config, tensors, base_fingerprint(checkpoint))
    return tmp_path / "adapter"


def break_nothing(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return "no config.json"


def break_shard(folder: Path) -> str:
    (folder / "model-00002-of-00003.safetensors").unlink()
    return "model-00002-of-00003.safetensors"


def break_length(folder: Path) -> str:
    path = folder / "model-00001-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "model-00001-of-00003.safetensors is truncated"


def break_shape(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    return "config.json asks for [256, 64]"


def break_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "no tokenizer.json"


BREAKS = [break_nothing, break_shard, break_length, break_shape]


@pytest.mark.parametrize("breaking", BREAKS)
@pytest.mark.parametrize("verb", ["convert", "fuse", "train", "predict", "generate"])
def test_a_corrupt_checkpoint(
    verb: str,
    breaking: Callable[[Path], str],
    make_checkpoint: Callable[..., Path],
    adapter: Path,
    small_catalogue: Path,
    tmp_path: Path,
    space: Path,
) -> None:
    pytest.importorskip("mlx")
    folder = Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "broken"))
    named = breaking(folder)
    arguments: dict[str, tuple[str, list[object]]] = {
        "convert": ("mlx_phi3v.convert", ["--hf-path", folder, "--mlx-path", space / "out"]),
        "fuse": ("mlx_phi3v.fuse", ["--model", folder, "--adapter", adapter, "--save-path", space / "out"]),
        "train": ("mlx_phi3v.train", ["--model", folder, "--data", small_catalogue, "--output", space / "out"]),
        "predict": ("eval.predict", ["--model", folder, "--data", small_catalogue, "--output", space / "out"]),
        "generate": ("mlx_phi3v.generate", ["--model", folder, "--question", "What?"]),
    }
    module, flags = arguments[verb]
    message = fails(module, *flags)
    assert named in message and str(folder) in message


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_an_adapter_for_another_base(backend: str, make_checkpoint: Callable[..., Path], adapter: Path) -> None:
    pytest.importorskip(backend)
    flags = ["--backend", backend, "--model", make_checkpoint(seed=1), "--adapter", adapter, "--question", "What?"]
    message = fails("mlx_phi3v.generate", *flags)
    assert str(adapter) in message and "trained on another base model (the-base" in message and "--model" in message


def test_an_adapter_that_is_none(checkpoint: Path, tmp_path: Path, space: Path) -> None:
    message = fails("mlx_phi3v.fuse", "--model", checkpoint, "--adapter", tmp_path / "none", "--save-path", space / "out")
    assert f"--adapter {tmp_path / 'none'} is neither an adapter nor a training run" in message


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_an_unreadable_image(checkpoint: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "photo.jpg").write_bytes(content)
    assert str(tmp_path / "photo.jpg") in fails("mlx_phi3v.generate", "--model", checkpoint, "--image", tmp_path / "photo.jpg")


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_an_unreadable_image_among_the_rows(backend: str, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    folder = write_catalogue(tmp_path / "catalogue", {"train": 6})
    picture = sorted(folder.rglob("*.png"))[0]
    picture.write_bytes(picture.read_bytes()[:80])
    flags = ["--backend", backend, "--model", checkpoint, "--data", folder, "--output", tmp_path / "run", "--num-crops", 1]
    message = fails("mlx_phi3v.train", *flags)
    assert "row 'train-" in message and picture.name in message
    # Before the first step nothing stays, not even the folder; a row of a later step leaves settings and log.
    assert {p.name for p in (tmp_path / "run").glob("*")} <= {"settings.json", "log.jsonl"}


def test_a_tag_without_an_image_and_an_image_without_a_tag(checkpoint: Path, tmp_path: Path) -> None:
    random_picture(60, 60, 0).save(tmp_path / "a.png")
    assert "<|image_1|>" in fails("mlx_phi3v.generate", "--model", checkpoint, "--prompt", "<|user|>\n<|image_1|>What?<|end|>")
    flags = ["--model", checkpoint, "--prompt", "<|user|>\nWhat?<|end|>", "--image", tmp_path / "a.png"]
    assert "no <|image_1|> tag for image 1 of 1" in fails("mlx_phi3v.generate", *flags)


def test_an_empty_split(checkpoint: Path, tmp_path: Path, space: Path) -> None:
    pytest.importorskip("mlx")
    folder = write_catalogue(tmp_path / "catalogue", {"test": 2})
    flags = ["--model", checkpoint, "--data", folder, "--output", space / "out"]
    assert f"{folder} has no split 'train'; it has test" in fails("mlx_phi3v.train", *flags)
    assert f"{folder} has no split 'validation'" in fails("eval.predict", *flags, "--split", "validation")
    info = json.loads((folder / "catalogue.json").read_text())
    info["splits"]["test"]["rows"] = 0
    (folder / "catalogue.json").write_text(json.dumps(info))
    assert f"split 'test' of {folder} is empty" in fails("eval.predict", *flags)


def test_no_catalogue(checkpoint: Path, tmp_path: Path, space: Path) -> None:
    for module in ("mlx_phi3v.train", "eval.predict"):
        message = fails(module, "--model", checkpoint, "--data", tmp_path / "none", "--output", space / "out")
        assert f"{tmp_path / 'none'} is not a catalogue" in message


def test_an_unknown_key_in_the_yaml(tmp_path: Path, space: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"data: x\noutput: {space / 'out'}\nlearnig_rate: 1e-4\n")
    message = fails("mlx_phi3v.train", "--config", tmp_path / "run.yaml")
    assert f"unknown key 'learnig_rate' in --config {tmp_path / 'run.yaml'}; did you mean 'learning_rate'" in message


@pytest.mark.parametrize("module", ["mlx_phi3v.train", "mlx_phi3v.generate", "eval.predict"])
def test_a_wrong_backend_or_flag(module: str) -> None:
    message = fails(module, "--backend", "cuda")
    assert "--backend" in message and "'cuda'" in message and "mlx" in message and "--help" in message
    assert "--bakend" in fails(module, "--bakend", "mlx")


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setattr("mlx_phi3v.backend.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--backend torch is not installed .* pip install 'mlx-phi3v\[torch\]'"):
        load_backend("torch", checkpoint)


def test_a_folder_for_temporary_files_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLX compiles there."""
    for name in ("TMPDIR", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with pytest.raises(UserError, match=r"^TMPDIR is '.*TMPDIR', which is no folder; make it, or unset TMPDIR$"):
        set_up("mlx")
    (tmp_path / "TMPDIR").mkdir()
    set_up("mlx")


def test_results_are_not_overwritten(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "exists and is not empty" in fails("mlx_phi3v.convert", "--hf-path", checkpoint, "--mlx-path", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, real (a tmpfs), where the tests may mount one: root on Linux."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root on Linux can mount a small disk; test_convert and test_files fill one by a stand-in")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["convert", "fuse", "mlx", "torch", "predict"])
def test_a_full_disk(verb: str, checkpoint: Path, adapter: Path, small_catalogue: Path, small_disk: Path) -> None:
    pytest.importorskip("torch" if verb == "torch" else "mlx")
    out = small_disk / "out"
    training = [
        "--data",
        small_catalogue,
        "--model",
        checkpoint,
        "--output",
        out,
        "--num-crops",
        1,
        "--r",
        32,
        "--max-steps",
        1,
    ]
    module, flags = {
        "convert": ("mlx_phi3v.convert", ["--hf-path", checkpoint, "--mlx-path", out]),
        "fuse": ("mlx_phi3v.fuse", ["--model", checkpoint, "--adapter", adapter, "--save-path", out]),
        "mlx": ("mlx_phi3v.train", [*training, "--max-steps", 1, "--backend", "mlx"]),
        "torch": ("mlx_phi3v.train", [*training, "--max-steps", 1, "--backend", "torch"]),
        "predict": ("eval.predict", ["--data", small_catalogue, "--model", checkpoint, "--output", out]),
    }[verb]
    if verb == "predict":  # its files are small: leave them no room at all
        with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    message = fails(module, *flags)
    assert "cannot write" in message and "No space left on device" in message
    left = {str(p.relative_to(small_disk)) for p in small_disk.rglob("*")} - {"filler"}
    if verb in ("mlx", "torch"):  # the log of what was done stays, a checkpoint does not appear
        assert left == {"out", "out/settings.json", "out/log.jsonl"}
    else:
        assert not left & {"out/config.json", "out/model.safetensors"} and not any(".tmp" in name for name in left)


def test_a_disk_that_fills_up_spares_the_last_checkpoint(checkpoint: Path, small_catalogue: Path, small_disk: Path) -> None:
    pytest.importorskip("mlx")
    plain = ["--data", small_catalogue, "--model", checkpoint, "--num-crops", 1, "--batch-size", 2, "--r", 4,
             "--save-every", 1, "--val-rows", 0, "--steps-per-report", 1, "--warmup-steps", 0]  # fmt: skip
    assert run_here("mlx_phi3v.train", *plain, "--output", small_disk / "one", "--max-steps", 1).returncode == 0
    size = sum(path.stat().st_size for path in (small_disk / "one").glob("step-*/*"))
    shutil.rmtree(small_disk / "one")
    flags = [*plain, "--output", small_disk / "out", "--max-steps", 3]
    with open(small_disk / "filler", "wb") as file:  # leaves room for one checkpoint, not for two
        file.write(bytes(shutil.disk_usage(small_disk).free - size * 3 // 2))
    fails("mlx_phi3v.train", *flags)
    saved = small_disk / "out" / "last"
    step = json.loads((saved / "state.json").read_text())["step"]
    assert 1 <= step < 3 and load_file(saved / "optimizer.safetensors")
    assert not list((small_disk / "out").glob(".*"))
    (small_disk / "filler").unlink()
    assert run_here("mlx_phi3v.train", *flags, "--resume").returncode == 0
    assert json.loads((saved / "state.json").read_text())["step"] == 3


def test_a_checkpoint_without_a_tokenizer(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "broken"))
    assert break_tokenizer(folder) in fails("mlx_phi3v.generate", "--model", folder, "--question", "What?")


def test_a_corrupt_adapter(checkpoint: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, next(iter(tensors)): np.zeros((3, 3), np.float32)}, path)
    message = fails("mlx_phi3v.generate", "--model", checkpoint, "--adapter", adapter, "--question", "What?")
    assert f"adapter {adapter} does not fit this model" in message and "is [3, 3]" in message
