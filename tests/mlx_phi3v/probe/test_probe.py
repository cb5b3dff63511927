"""A folder's probe tells whether what runs it computes what it did when it was written: here, on torch, and in mlx-vlm."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from mlx_phi3v.convert import main as convert_main
from mlx_phi3v.crops import ProcessedImage, process_image
from mlx_phi3v.decoding import load_model
from mlx_phi3v.doctor.__main__ import main as doctor_main
from mlx_phi3v.errors import UserError
from mlx_phi3v.fuse import main as fuse_main
from mlx_phi3v.generate import main as generate_main
from mlx_phi3v.golden.checks import Check
from mlx_phi3v.model_file.source import MODEL_FILE
from mlx_phi3v.probe import probe as probe_module
from mlx_phi3v.probe.probe import make_probe, verify_folder
from mlx_phi3v.probe.probe_file import PROBE_FILE, read_probe
from tests.mlx_phi3v.test_fuse import saved

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.numeric
FILES = {PROBE_FILE, "probe-1.png", "probe-2.png", "probe-3.png"}


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint in fp32, with its probe."""
    path = tmp_path_factory.mktemp("probe") / "model"
    assert convert_main(["--hf-path", str(checkpoint), "--mlx-path", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def damaged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with one layer's projection scaled by 0.9, as a tool may read it that confuses a scale."""
    path = Path(shutil.copytree(folder, tmp_path_factory.mktemp("damaged") / "model"))
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file(tensors | {name: tensors[name] * np.float32(0.9)}, path / "model.safetensors", {"format": "mlx"})
    return path


def test_a_folder_holds_its_pictures_and_what_it_answers(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= FILES
    probe = read_probe(folder)
    assert [case.num_crops for case in probe.cases] == [1, 2, 2] and probe.dtype == "float32"
    assert all(1 <= len(case.token_ids) == len(case.logprobs) <= 8 and max(case.logprobs) <= 0 for case in probe.cases)
    assert probe.cases[0].prompt.startswith("<|user|>\n<|image_1|>")


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_each_backend_meets_it_and_a_changed_layer_does_not(backend: str, folder: Path, damaged: Path) -> None:
    pytest.importorskip(backend)
    gap = verify_folder(load_model(str(folder), backend, dtype="float32"))
    # fp32 sums in another order, as in eval.compare: a thousandth of a nat and less; the probe itself allows ten times that.
    assert gap.applied and gap.nats < 1e-3 and gap.tolerance == 0.01 and gap.photos == 3
    assert str(gap) == f"probe: applied, gap {gap.nats:.1g} nats over {gap.tokens} tokens of 3 photos"
    worse = verify_folder(load_model(str(damaged), backend, dtype="float32"))
    assert not worse.applied and worse.nats > 0.02 and worse.where.startswith("token ")


def stretched(rgb: Image.Image, num_crops: int) -> ProcessedImage:
    """As mlx-vlm's own processor does it: onto the padded size, instead of white below."""
    height, width = process_image(rgb, num_crops).image_size
    return process_image(rgb.resize((width, height), Image.Resampling.BICUBIC), num_crops)


def scrambled(rgb: Image.Image, num_crops: int) -> ProcessedImage:
    """Crops that are not put back on their grid."""
    image = process_image(rgb, num_crops)
    return replace(image, pixel_values=np.concatenate([image.pixel_values[:1], image.pixel_values[:0:-1]]))


@pytest.mark.parametrize("wrong", [stretched, scrambled])
def test_other_maths_of_photos_do_not_meet_it(
    wrong: Callable[..., ProcessedImage], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "process_image", wrong)
    gap = verify_folder(load_model(str(folder), "mlx", dtype="float32"))
    assert not gap.applied and gap.nats > 0.02


def test_generate_verifies_a_folder(folder: Path, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_main(["--model", str(folder), "--verify", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("note: probe: applied, gap ") and json.loads(captured.out)["tokens"] == 24
    with pytest.raises(UserError, match=r"probe: NOT applied, gap .* nats over .*probe-\d\.png.*does not compute here what"):
        generate_main(["--model", str(damaged), "--verify"])
    with pytest.raises(UserError, match=r"tiny has no probe\.json; mlx_phi3v\.convert and mlx_phi3v\.fuse write one"):
        generate_main(["--model", "tiny", "--verify"])


class NothingElse:
    """Stands in for the rest of an examination."""

    def __init__(self, say: object) -> None: ...

    def check_reference(self) -> list[Check]:
        return []

    def kernels(self, backend: str) -> list[Check]:
        return []

    def model(self, backend: str, weights: str) -> list[Check]:
        return []


def test_doctor_checks_a_folder_on_each_backend(
    folder: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_phi3v.doctor.report.Examination", NothingElse)
    flags = ["--backend", "mlx", "--quick", "--no-calibrate"]
    assert doctor_main([*flags, "--json", "--model", str(folder)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [check["stage"] for check in report["checks"]] == ["probe"] and report["trusted"]
    assert doctor_main([*flags, "--model", str(damaged)]) == 3
    assert re.search(r"FAIL mlx, model probe token \d of probe-\d\.png", capsys.readouterr().out)
    with pytest.raises(UserError, match=r"tiny has no probe\.json"):
        doctor_main([*flags, "--model", "tiny"])


def test_the_model_file_verifies_its_folder_as_mlx_vlm_reads_it(
    folder: Path, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlx_vlm")

    def run(*arguments: Path) -> Any:
        monkeypatch.setattr(sys, "argv", [MODEL_FILE, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(folder / MODEL_FILE), run_name="__main__")
        return end.value.code

    assert run() == 0
    said = capsys.readouterr().out
    assert said.startswith("probe: applied, gap ") and said.endswith(" nats over 24 tokens, at most 0.01\n")
    assert run(damaged) == 1
    assert capsys.readouterr().out.startswith("probe: NOT applied, gap ")
    assert run(tmp_path) == 2
    assert capsys.readouterr().err == f"{tmp_path} has no probe.json\n"


def test_a_fused_model_says_how_far_it_is_from_base_and_adapter(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, out = saved(checkpoint, tmp_path / "adapter"), tmp_path / "fused"
    flags = ["--model", str(checkpoint), "--adapter", str(adapter), "--save-path", str(out), "--receipt", "0"]
    assert fuse_main(flags) == 0
    gap = read_probe(out).source_gap_nats
    assert gap is not None and gap < 1e-3  # fp32, summed in another order
    assert capsys.readouterr().err == f"note: probe: gap {gap:.1g} nats to the base with its adapter\n"
    with pytest.raises(UserError, match=r"--verify checks .*model as it is; leave out --adapter"):
        verify_folder(load_model(str(checkpoint), "mlx", adapter))


def test_a_model_that_memory_cannot_hold_gets_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe_module, "_memory", lambda: 5e8)
    assert make_probe(folder, name=tmp_path / "out") is None
    assert (
        f"no probe was written into {tmp_path / 'out'}: the model takes about 1 GB, this machine has 0 GB"
        in capsys.readouterr().err
    )


def test_a_probe_is_left_out_on_demand_and_a_full_disk_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--hf-path", str(checkpoint), "--mlx-path"]
    assert convert_main([*flags, str(tmp_path / "plain"), "--no-probe"]) == 0
    assert not {path.name for path in (tmp_path / "plain").iterdir()} & FILES

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(probe_module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        convert_main([*flags, str(tmp_path / "full")])
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": "../secret.png"}, r"names the file .*; it must be the name of a file in its folder"),
        ({"picture": "probe-9.png"}, r"lacks probe-9\.png, which its probe\.json names; copy the folder again"),
        ({"logprobs": [0.0]}, r"probe-1\.png has \d tokens and 1 log-probabilities"),
        ({"num_crops": 10**6}, r"cases\[0\]\.num_crops is 1000000"),
    ],
)
def test_a_probe_that_is_not_sound_is_named(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    for name in FILES:
        shutil.copy(folder / name, tmp_path)
    raw = json.loads((folder / PROBE_FILE).read_text())
    raw["cases"][0] |= change
    (tmp_path / PROBE_FILE).write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        read_probe(tmp_path)
