"""The main path on the built-in model: draw, convert, train, resume, predict, compare, on both backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.helpers.here import run_here
from tests.helpers.paths import GOLDEN, ROOT

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TRAINING = ["--batch-size", "4", "--max-steps", "6", "--save-every", "2", "--steps-per-eval", "3", "--val-rows", "4",
            "--warmup-steps", "1", "--r", "4", "--steps-per-report", "1", "--learning-rate", "1e-3"]  # fmt: skip


def run(module: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command here, checking its exit status."""
    done = run_here(module, *arguments)
    assert done.returncode == status, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "catalogue"
    run("data.sample", "--output", folder, "--products", 40, "--seed", 3, "--validation", 6, "--test", 8)
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "mlx"
    run("mlx_phi3v.convert", "--hf-path", "tiny", "--mlx-path", folder, "--dtype", "float32", "--no-probe")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, catalogue: Path, converted: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for backend, model in (("mlx", converted), ("torch", "tiny")):
        run(
            "mlx_phi3v.train",
            "--backend",
            backend,
            "--model",
            model,
            "--data",
            catalogue,
            "--output",
            folder / backend,
            *TRAINING,
        )
    return {backend: folder / backend for backend in ("mlx", "torch")}


def losses(folder: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()])


def test_both_backends_train_to_the_same_numbers(trained: dict[str, Path]) -> None:
    # fp32 sums in another order: measured 1e-6 relative after six steps; a wrong scale or order shows in the first digit.
    np.testing.assert_allclose(losses(trained["mlx"]), losses(trained["torch"]), rtol=1e-4)
    ours, theirs = (load_file(trained[b] / "last" / "adapter_model.safetensors") for b in ("mlx", "torch"))
    assert ours.keys() == theirs.keys()
    a, b = (np.concatenate([tensors[key].ravel() for key in sorted(tensors)]) for tensors in (ours, theirs))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999


@pytest.mark.slow  # test_train.py interrupts training on both backends, and kills it ten times
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_killed_training_resumes_bit_for_bit(
    backend: str, trained: dict[str, Path], catalogue: Path, converted: Path, tmp_path: Path
) -> None:
    model = converted if backend == "mlx" else "tiny"
    arguments = [
        "--backend",
        backend,
        "--model",
        str(model),
        "--data",
        str(catalogue),
        "--output",
        str(tmp_path / "run"),
        *TRAINING,
    ]
    command = [sys.executable, "-m", "mlx_phi3v.train", *arguments, "--json", "--resume"]
    for kills in (3, 5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("step", 0) >= kills:
                process.kill()
                break
        process.wait()
    run("mlx_phi3v.train", *arguments, "--resume")
    whole, resumed = (
        load_file(folder / "last" / "adapter_model.safetensors") for folder in (trained[backend], tmp_path / "run")
    )
    for key in whole:
        np.testing.assert_array_equal(whole[key], resumed[key], err_msg=key)
    np.testing.assert_array_equal(losses(tmp_path / "run"), losses(trained[backend]))


@pytest.mark.slow  # test_adapters.py runs both backends in one process
def test_an_adapter_answers_alike_on_both_backends(
    trained: dict[str, Path], catalogue: Path, converted: Path, tmp_path: Path
) -> None:
    texts = {}
    for backend, model in (("mlx", converted), ("torch", "tiny")):
        folder = tmp_path / backend
        adapter = ["--adapter", trained["mlx"], "--data", catalogue, "--output", folder, "--batch-size", 5]
        run("eval.predict", "--backend", backend, "--model", model, *adapter)
        texts[backend] = {row["id"]: row for row in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())}
    assert texts["mlx"].keys() == texts["torch"].keys() and len(texts["mlx"]) == 8
    for identity, row in texts["mlx"].items():
        assert row["text"] == texts["torch"][identity]["text"]
        np.testing.assert_allclose(row["logprobs"], texts["torch"][identity]["logprobs"], atol=1e-3)
        assert row["fingerprints"] == texts["torch"][identity]["fingerprints"]
    done = run("eval.compare", tmp_path / "mlx", tmp_path / "torch", status=3)  # eight rows decide nothing
    assert "INCONCLUSIVE" in done.stdout


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_fused_model_computes_what_base_and_adapter_do(
    backend: str, trained: dict[str, Path], converted: Path, tmp_path: Path
) -> None:
    from mlx_phi3v.adapters import load_adapter
    from mlx_phi3v.backend import load_backend
    from mlx_phi3v.batches import Example, collate
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.crops import process_image
    from mlx_phi3v.errors import UserError
    from mlx_phi3v.prompts import IGNORE, PromptProcessor
    from mlx_phi3v.task import PROMPT

    unchecked = ["--no-probe", "--receipt", 0]  # tests/test_commands.py has them
    run("mlx_phi3v.fuse", "--model", converted, "--adapter", trained["mlx"], "--save-path", tmp_path / "fused", *unchecked)
    image = process_image(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)), 1)
    ids = np.array(PromptProcessor(converted).tokenize(PROMPT, [85]))
    example = Example("q", ids, np.full(len(ids), IGNORE), (image,))
    tuned, fused = load_backend(backend, converted), load_backend(backend, tmp_path / "fused")
    untuned = tuned.forward(collate([example], tuned.config)).logits
    tuned.set_adapter(*load_adapter(trained["mlx"], tuned.config, base_fingerprint(converted)), trainable=False)
    logits = [loaded.forward(collate([example], loaded.config)).logits for loaded in (tuned, fused)]
    # One fp32 rounding of each merged weight; the adapter itself moves the logits a thousand times further.
    largest = np.abs(logits[0]).max()
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4 * largest)
    assert np.abs(logits[0] - untuned).max() > 1e-2 * largest
    with pytest.raises(UserError, match="another base"):
        load_adapter(trained["mlx"], fused.config, base_fingerprint(tmp_path / "fused"))


def test_peft_loads_an_adapter_trained_on_mlx(trained: dict[str, Path]) -> None:
    from peft import PeftModel

    from mlx_phi3v.backend_torch.loading import load
    from mlx_phi3v.checkpoint.hub import resolve_model

    model = PeftModel.from_pretrained(load(resolve_model("tiny")).model, str(trained["mlx"] / "last"))
    stored = load_file(trained["mlx"] / "last" / "adapter_model.safetensors")
    live = {name.replace(".default.", "."): value for name, value in model.named_parameters() if "lora_" in name}
    assert live.keys() == stored.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(live[name].detach().numpy(), value)


def test_four_bit_weights_read_alike_on_both_backends(tmp_path: Path) -> None:
    from mlx_phi3v.backend import load_backend
    from mlx_phi3v.batches import Example, collate
    from mlx_phi3v.prompts import IGNORE, PromptProcessor

    run("mlx_phi3v.convert", "--hf-path", "tiny", "--mlx-path", tmp_path / "q4", "-q", "--q-bits", 4, "--q-group-size", 32)
    ids = np.array(PromptProcessor(tmp_path / "q4").tokenize("<|user|>\nName a colour.<|end|>\n<|assistant|>\n", []))
    logits = []
    for backend in ("mlx", "torch"):
        loaded = load_backend(backend, tmp_path / "q4", dtype="float32")
        batch = collate([Example("q", ids, np.full(len(ids), IGNORE), ())], loaded.config)
        logits.append(loaded.forward(batch).logits)
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4 * np.abs(logits[1]).max())


def test_recorded_outputs_of_the_published_code_are_met_by_both_backends() -> None:
    done = run("eval.parity", "--golden", GOLDEN)
    assert ", 0 failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mlx_phi3v.train", "--data", "{tmp}/nowhere", "--output", "{tmp}/out"], "no catalogue"),
        (["mlx_phi3v.train", "--config", "{tmp}/typo.yaml"], "learning_rate"),
        (["mlx_phi3v.convert", "--hf-path", "{tmp}/empty", "--mlx-path", "{tmp}/out"], "config.json"),
        (["mlx_phi3v.convert", "--hf-path", "{tmp}/cut", "--mlx-path", "{tmp}/out"], "truncated"),
        (["mlx_phi3v.generate", "--image", "{tmp}/broken.jpg"], "broken.jpg"),
        (["mlx_phi3v.generate", "--prompt", "<|user|>\n<|image_1|>\nWhat?<|end|>\n<|assistant|>\n"], "<|image_1|>"),
    ],
)
def test_a_users_mistake_gets_one_sentence(arguments: list[str], named: str, tmp_path: Path) -> None:
    import shutil

    from mlx_phi3v.checkpoint.hub import resolve_model

    (tmp_path / "empty").mkdir()
    shutil.copytree(resolve_model("tiny"), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "typo.yaml").write_text("learnig_rate: 1e-4\n")
    module, *rest = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    command = [sys.executable, "-m", module, *rest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
    assert named in done.stderr
    assert not (tmp_path / "out").exists()
