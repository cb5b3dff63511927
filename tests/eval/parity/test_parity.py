"""The parity checks pass what is right, of any shape, and name the stage of what is wrong.

`test_pipeline` runs the recorded outputs of the published code on both backends; here the checks themselves are tested.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eval.parity.__main__ import main
from eval.parity.golden import check_backend, load_cases, optimizer_settings
from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.crops import pad_crops, process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.golden.checks import TOLERANCES, Check, check, cosine_distance, mismatch, relative_error
from mlx_phi3v.photo import open_photo
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture
from tests.helpers.paths import GOLDEN

# name -> num_crops and photo sizes: of shapes that the recorded cases do not have.
CASES: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "sixteen_crops": (16, ((400, 380),)),
    "three_images": (2, ((120, 60), (60, 120), (80, 80))),
    "no_image": (1, ()),
}
PARAMETERS = ("model.vision_embed_tokens.sub_GN", "model.layers.0.self_attn.qkv_proj.weight", "lm_head.weight")


def record(folder: Path, source: Path) -> None:
    """Write a folder of the form of shared/golden from what the torch backend gives, with grouped heads and sub_glb order."""
    shutil.copytree(source, folder / "checkpoint")
    (folder / "images").mkdir()
    backend = load_backend("torch", folder / "checkpoint", dtype="float32")
    prompts = PromptProcessor(source)
    cases: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for name, (num_crops, sizes) in CASES.items():
        maker = ExampleMaker(prompts, backend.config, Task(), num_crops)
        files = []
        for k, (width, height) in enumerate(sizes):
            files.append(f"images/{name}_{k}.png")
            random_picture(width, height, seed=k).save(folder / files[-1])
        images = tuple(process_image(open_photo(folder / file), num_crops) for file in files)
        example = maker.from_images(name, images, "Product: Wool scarf")
        start = int(np.argmax(example.labels != IGNORE))
        batch = collate([example], backend.config)
        forward = backend.forward(batch, start - 1)
        names = [p for p in PARAMETERS if images or "vision" not in p]
        loss, gradients = backend.gradients(batch, names)
        prompt = Example(name, example.input_ids[:start], example.labels[:start], images)
        [greedy] = generate(backend, [prompt], max_new_tokens=5, stop_ids=(), cached=False)
        case = {"name": name, "num_crops": num_crops, "prompt_tokens": start, "seq_len": len(example.input_ids), "loss": loss}
        case |= {"greedy": greedy.token_ids, "images": files, "image_sizes": [list(image.image_size) for image in images]}
        case["grad_norms"] = {n: float(np.linalg.norm(g)) for n, g in gradients.items()}
        if images:
            values = np.stack([pad_crops(image.pixel_values, num_crops) for image in images])
            case |= {"pixel_values_shape": list(values.shape), "pixel_values_stride": 997}
            case["pixel_values_sum"] = float(values.sum(dtype=np.float64))
            arrays[f"{name}.pixel_values_sample"] = values.reshape(-1)[::997]
        cases.append(case)
        middle = len(example.input_ids) // 2
        arrays |= {f"{name}.input_ids": example.input_ids[None], f"{name}.logits": forward.logits}
        arrays[f"{name}.hidden_last"] = np.stack([state[0, -1] for state in forward.hidden_states])
        arrays[f"{name}.hidden_mid"] = np.stack([state[0, middle] for state in forward.hidden_states])
    (folder / "cases.json").write_text(json.dumps(cases))
    np.savez(folder / "cases.npz", **arrays)
    _record_training(folder)


def _record_training(folder: Path) -> None:
    adapter = AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE)
    backend = load_backend("torch", folder / "checkpoint", dtype="float32")
    tensors = init_adapter(backend.config, adapter, 1)
    save_adapter(folder / "adapter_init", adapter, tensors, "")
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(OptimizerArgs((0.8, 0.99), 1e-8, 0.02), grad_checkpoint=False)
    steps = []
    for i, case in enumerate(load_cases(folder)):
        batch = collate([case.example], backend.config)
        loss = float(backend.accumulate(batch)) / batch.answer_tokens
        steps.append({"step": i, "case": case.name, "loss": loss, "grad_norm": backend.update(5e-3, batch.answer_tokens, 0.5)})
    optimizer = "AdamW lr=5e-3 betas=(0.8, 0.99) eps=1e-8 weight_decay=0.02, global grad-norm clip 0.5"
    (folder / "training.json").write_text(json.dumps({"optimizer": optimizer, "steps": steps}))
    save_adapter(folder / "adapter_after_3_steps", adapter, backend.adapter_tensors(), "")


@pytest.fixture(scope="module")
def recorded(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("mlx")
    folder = tmp_path_factory.mktemp("golden")
    record(folder, make_checkpoint(hidden=96, heads=6, kv_heads=2, patch=42, vision_layers=4))
    return folder


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "golden"))


@pytest.mark.numeric
def test_recordings_of_other_shapes_are_met(recorded: Path) -> None:
    checks = check_backend(recorded, "mlx")
    assert [asdict(check) for check in checks if not check.passed] == []
    stages = {check.stage for check in checks}
    assert stages == set(TOLERANCES) - {"token ids", "vision features"}
    assert {case for case in CASES if any(check.where.startswith(case) for check in checks)} == set(CASES)
    assert max(check.error for check in checks if check.stage == "logits") > 0  # computed, not copied


def change(folder: Path, what: str) -> str:
    """Make one thing wrong; the stage that must say so first."""
    if what == "weight":  # one scale of one layer: the first layer after it diverges
        path = folder / "checkpoint" / "model.safetensors"
        tensors = load_file(path)
        tensors["model.layers.1.post_attention_layernorm.weight"] = (
            tensors["model.layers.1.post_attention_layernorm.weight"] * 1.01
        )
        save_file(tensors, path)
        return "hidden states"
    if what == "adapter":
        path = folder / "adapter_after_3_steps" / "adapter_model.safetensors"
        save_file({key: -value for key, value in load_file(path).items()}, path)
        return "trained adapter"
    if what == "optimizer":
        path = folder / "training.json"
        path.write_text(path.read_text().replace("lr=5e-3", "lr=5e-2"))
        return "training loss"
    # What follows shows without the training, and in the one of two cases that it is in.
    (folder / "training.json").unlink()
    cases = [case for case in json.loads((folder / "cases.json").read_text()) if case["name"] != "sixteen_crops"]
    arrays = dict(np.load(folder / "cases.npz"))
    stage = {"pixel_values_sample": "pixels", "hidden_mid": "hidden states", "logits": "logits", "loss": "loss",
             "greedy": "greedy cached", "grad_norms": "gradient norms", "image_sizes": "image sizes"}[what]  # fmt: skip
    if what in ("pixel_values_sample", "hidden_mid", "logits"):
        key = f"three_images.{what}"
        arrays[key] = arrays[key].copy()
        arrays[key].reshape(-1)[-1] += 2e-2
    elif what == "greedy":
        cases[0]["greedy"][-1] += 1
    elif what == "loss":
        cases[0]["loss"] += 1e-3
    elif what == "grad_norms":
        cases[0]["grad_norms"]["lm_head.weight"] *= 1.01
    else:
        cases[0]["image_sizes"][0] = cases[0]["image_sizes"][0][::-1]
    (folder / "cases.json").write_text(json.dumps(cases))
    np.savez(folder / "cases.npz", **arrays)
    return stage


@pytest.mark.parametrize(
    "what",
    ["weight", "adapter", "optimizer", "pixel_values_sample", "hidden_mid", "logits", "loss", "greedy", "grad_norms",
     "image_sizes"],
)  # fmt: skip
def test_what_is_wrong_fails_in_its_stage(copy: Path, what: str) -> None:
    stage = change(copy, what)
    failed = [check for check in check_backend(copy, "mlx") if not check.passed]
    assert failed and failed[0].stage == stage, [asdict(check) for check in failed[:3]]
    if what == "weight":
        assert failed[0].where.endswith("layer 2")
    elif what not in ("optimizer", "adapter"):
        assert {check.stage for check in failed} <= {stage, "greedy uncached"}
        assert all(check.where.startswith("three_images") for check in failed)


def test_the_command_reports_and_its_status_says_all(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--golden", str(copy), "--backend", "mlx"]
    assert main(flags) == 0
    assert ", 0 failed" in capsys.readouterr().out
    assert main([*flags, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert all(record["passed"] for record in records) and {"backend", "stage", "where", "error"} <= records[0].keys()
    change(copy, "loss")
    assert main(flags) == 1
    out = capsys.readouterr().out
    assert "1 failed" in out and "first stage that diverges: loss (three_images)" in out and "FAIL" in out
    assert main([*flags, "--json"]) == 1
    assert sum(not record["passed"] for record in json.loads(capsys.readouterr().out)) == 1


def test_two_backends_are_compared_on_any_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("mlx")
    random_picture(200, 120, 0).save(tmp_path / "a.png")
    flags = ["--model", str(checkpoint), "--image", str(tmp_path / "a.png"), "--num-crops", "3", "--new-tokens", "6"]
    assert main([*flags, "--json"]) == 0
    stages = [record["stage"] for record in json.loads(capsys.readouterr().out)]
    assert {"vision features", "hidden states", "logits", "training loss", "trained adapter", "greedy cached"} <= set(stages)
    assert stages.count("hidden states") == 3


@pytest.mark.parametrize("flags", [[], ["--golden", "a", "--model", "b"]])
def test_one_of_the_two_ways_must_be_chosen(flags: list[str]) -> None:
    with pytest.raises(UserError, match="give --golden DIR"):
        main(flags)


def test_a_folder_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recorded cases not found: .*cases\.json"):
        main(["--golden", str(tmp_path)])
    (tmp_path / "cases.json").write_text("[]")
    with pytest.raises(UserError, match=r"no cases\.npz"):
        main(["--golden", str(tmp_path), "--backend", "mlx"])


def test_errors_are_measured_and_nan_never_passes() -> None:
    nan = np.array([1.0, np.nan])
    assert not check("x", "logits", "y", relative_error(nan, np.ones(2))).passed
    assert relative_error(np.ones(2), np.ones(3)) == float("inf")
    assert relative_error(np.array([1.0, 2.1]), np.array([1.0, 2.0])) == pytest.approx(0.05)
    assert mismatch([1, 2], [1, 2]) == (0.0, "") and mismatch([1], [2])[0] == 1.0
    assert cosine_distance({"a": np.ones(3)}, {"a": 2 * np.ones(3)}) == pytest.approx(0)
    assert cosine_distance({"a": np.ones(3)}, {"b": np.ones(3)}) == float("inf")
    assert Check("x", "token ids", "y", 1.0, 0.0).severity == float("inf")


def test_the_optimiser_is_read_from_its_description() -> None:
    text = json.loads((GOLDEN / "training.json").read_text())["optimizer"]
    assert optimizer_settings(text) == (5e-3, OptimizerArgs((0.9, 0.999), 1e-8, 0.01), 1.0)
    assert optimizer_settings("AdamW lr=1e-4") == (1e-4, OptimizerArgs((0.9, 0.999), 1e-8, 0.01), 0.0)
