"""What commit 79b7033 wrote opens, resumes and compares as it did then (tests/recorded; its README says what is what).

Commands in processes of their own and files only: nothing here may depend on where the code's modules lie.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v.training.feature_file import SIGNED

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
HERE = Path("tests/recorded")  # relative, as in the recorded settings
RECORDED = ROOT / HERE
UNCHECKED = ["--no-probe", "--receipt", "0"]


def run(*words: object, statuses: tuple[int, ...] = (0,)) -> str:
    """`python -m WORDS` from the root of the repository; its standard output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in statuses, f"{words} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def last_line(output: str) -> Any:
    """The value of the last JSON line."""
    return json.loads(output.splitlines()[-1])


def lines(path: Path) -> list[dict[str, Any]]:
    """The values of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_id(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run."""
    return {row["id"]: row for row in lines(run_folder / "predictions.jsonl")}


def read(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same(now: Any, recorded: Any, at: str = "") -> None:
    """All that was recorded is there and equal; floats within 1e-9, since sums may be taken in another order.

    Keys that came later are no difference.
    """
    if isinstance(recorded, dict):
        assert isinstance(now, dict) and recorded.keys() <= now.keys(), f"{at}: {now} lacks some of {list(recorded)}"
        for key, value in recorded.items():
            assert_same(now[key], value, f"{at}.{key}")
    elif isinstance(recorded, list):
        assert isinstance(now, list) and len(now) == len(recorded), f"{at}: {now} is not {recorded}"
        for i, (one, other) in enumerate(zip(now, recorded, strict=True)):
            assert_same(one, other, f"{at}[{i}]")
    elif isinstance(recorded, float):
        assert math.isclose(now, recorded, rel_tol=1e-9, abs_tol=1e-9), f"{at}: {now} is not {recorded}"
    else:
        assert now == recorded, f"{at}: {now!r} is not {recorded!r}"


def need(backend: str) -> None:
    """Skip where the backend is not installed, without importing it here."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def recordings_stay_as_they_are() -> Iterator[None]:
    """No command writes into what it reads."""
    before = contents(RECORDED)
    yield
    assert contents(RECORDED) == before


def copy(name: str, to: Path) -> Path:
    """A copy of a recorded folder, its links kept as links."""
    return Path(shutil.copytree(RECORDED / name, to / name, symlinks=True))


@pytest.mark.parametrize("name", ["shop", "published"])
def test_a_catalogue_is_described_as_it_was(name: str, tmp_path: Path) -> None:
    words = ["data.describe", HERE / name, "--model", HERE / "model", "--page", tmp_path / "page.html", "--json"]
    recorded = read(RECORDED / f"{name}.describe.json")
    held = ("name", "fingerprint", "task", "rows", "counts", "products", "fields", "duplicates", "sides", "tokens")
    assert_same(last_line(run(*words)), {key: recorded[key] for key in held})
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("name", ["training-mlx", "training-torch", "training-dropout"])
def test_an_interrupted_training_goes_on_to_the_recorded_losses(name: str, tmp_path: Path) -> None:
    need("torch" if name == "training-torch" else "mlx")
    output = copy(name, tmp_path)
    step = read(output / "last" / "state.json")["step"]
    begun = lines(output / "log.jsonl")
    recorded = lines(RECORDED / f"{name}.log.jsonl")
    assert step < len(begun) < len(recorded)  # the run was killed behind its last checkpoint, before its end
    words = ["mlx_phi3v.train", "--config", HERE / f"{name}.yaml", "--output", output, "--resume", "--json"]
    features = []
    if name == "training-torch":
        features = ["--feature-cache", copy("features", tmp_path)]
    before = contents(tmp_path / "features")
    done = last_line(run(*words, *features))
    assert done["steps"] == len(recorded)
    log = lines(output / "log.jsonl")
    assert log[:step] == begun[:step]
    for now, then in zip(log[step:], recorded[step:], strict=True):
        assert (now["step"], now["answer_tokens"]) == (then["step"], then["answer_tokens"])
        assert now["learning_rate"] == pytest.approx(then["learning_rate"], rel=1e-9)
        # Equal on the machine of the recording. Another BLAS sums fp32 in another order: 3e-7 of a loss and 2e-6 of a
        # gradient norm between Haswell, Zen and Skylake kernels, a hundredth of this. Lost moments are 3e-2 and 2e-1,
        # an adapter 1 % larger is 6e-4 and 1e-2.
        assert now["loss"] == pytest.approx(then["loss"], rel=1e-4)
        assert now["grad_norm"] == pytest.approx(then["grad_norm"], rel=1e-3)
        assert ("val_loss" in now) == ("val_loss" in then)
        assert now.get("val_loss", 0) == pytest.approx(then.get("val_loss", 0), rel=1e-4)
    assert read(output / "last" / "state.json")["step"] == len(recorded)
    assert {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"} <= set(os.listdir(output / "last"))
    if scored := [record for record in recorded if "val_loss" in record]:
        best = min(scored, key=lambda record: record["val_loss"])
        assert read(output / "best" / "state.json")["step"] == best["step"]
    # All were found: a feature under another key would be a new file. New is the list of those recorded without a checksum.
    after = contents(tmp_path / "features")
    assert {name: of for name, of in after.items() if Path(name).name != SIGNED} == before


@pytest.mark.parametrize(("name", "backend", "adapter"), [("mlx", "mlx", "training-mlx"), ("other", "torch", "training-torch")])
def test_an_interrupted_run_of_answers_goes_on_as_recorded(name: str, backend: str, adapter: str, tmp_path: Path) -> None:
    need(backend)
    output = copy(f"runs/{name}", tmp_path)
    features = copy("features", tmp_path)
    manifest = read(output / "manifest.json")
    (output / "manifest.json").write_text(json.dumps(manifest | {"end": None, "rows": 0, "seconds": 0.0}))
    whole = (output / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (output / "predictions.jsonl").write_bytes(b"".join(whole[:4]) + whole[4][:50])
    # One feature of the rows left is taken away: made anew under its old name, while the others are found.
    lost = [path for path in features.rglob("*.safetensors") if path.stem == Path(json.loads(whole[-1])["image"]).stem]
    assert len(lost) == 2  # one of each backend
    for path in lost:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in features.rglob("*.safetensors")}
    words = ["eval.predict", "--config", HERE / "predict.yaml", "--backend", backend, "--adapter", HERE / adapter]
    run(*words, "--output", output, "--feature-cache", features)
    made = {path for path in features.rglob("*.safetensors") if path.stat().st_mtime_ns != times.get(path)}
    assert len(made) == 1 and made < set(lost)
    assert_same_answers(by_id(output), by_id(RECORDED / "runs" / name))
    after = read(output / "manifest.json")
    assert after["rows"] == len(whole) and after["end"] and after["start"] == manifest["start"]
    assert after["hashes"] == manifest["hashes"] and after["settings"] == manifest["settings"]


def assert_same_answers(now: dict[str, dict[str, Any]], recorded: dict[str, dict[str, Any]]) -> None:
    """Equal answers and inputs. In every recorded answer the likeliest token leads by more than 0.03 nats."""
    assert now.keys() == recorded.keys()
    for identity, row in recorded.items():
        for key in ("true", "predicted", "text", "token_ids", "finish", "image"):
            assert now[identity].get(key) == row.get(key), (identity, key)
        for stage in ("file", "pixels", "input_ids"):  # pixel values are resized in floats
            assert now[identity].get("fingerprints", {}).get(stage) == row.get("fingerprints", {}).get(stage)
        # fp32 logits of a few units, 64 terms a sum: 8e-6 between the backends; 6 decimals are stored.
        assert now[identity].get("logprobs", []) == pytest.approx(row.get("logprobs", []), abs=1e-4)


COMPARED = {
    "mlx-torch": ["runs/mlx", "runs/torch"],
    "mlx-other": ["runs/mlx", "runs/other"],
    "other-elsewhere": ["runs/other", "runs/elsewhere"],
    "baseline-other": ["runs/other", "--baseline", "baseline.jsonl"],
}
HELD = (
    "schema", "verdict", "exit_status", "joined", "metrics", "both_parsed", "by_category", "agreement", "outcomes", "inputs",
    "cause_counts", "noise", "near_tie", "seed", "resamples", "one_sided",
)  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_recorded_runs_compare_as_recorded(name: str) -> None:
    recorded = read(RECORDED / "reports" / f"{name}.json")
    words = [word if word.startswith("--") else HERE / word for word in COMPARED[name]]
    now = json.loads(run("eval.compare", *words, "--json", statuses=(recorded["exit_status"],)))
    assert_same(now, {key: recorded[key] for key in HELD})
    # Sentences may be put better; what they say of may not change.
    assert_same(now["decision"]["gates"], recorded["decision"]["gates"])
    facts = ("id", "cause", "position", "margin", "outcome", "category", "severity")
    assert_same(now["parted"], [{key: row[key] for key in facts} for row in recorded["parted"]])
    for side in ("a", "b"):
        assert_same(
            now[side], {key: recorded[side][key] for key in ("label", "rows", "only", "finished", "statuses", "confusion")}
        )


def test_a_recorded_run_scores_as_recorded_and_makes_the_recorded_baseline(tmp_path: Path) -> None:
    words = ["eval.score", HERE / "runs" / "mlx", "--json", "--baseline", tmp_path / "baseline.jsonl"]
    assert_same(json.loads(run(*words)), read(RECORDED / "reports" / "score-mlx.json"))
    assert_same(lines(tmp_path / "baseline.jsonl"), lines(RECORDED / "baseline.jsonl"))


def test_recorded_shards_make_the_recorded_run(tmp_path: Path) -> None:
    shards = [HERE / "runs" / f"shard-{i}" for i in (1, 2)]
    run("eval.merge", *shards, "--output", tmp_path / "merged")
    assert_same_answers(by_id(tmp_path / "merged"), by_id(RECORDED / "runs" / "mlx"))
    manifest, recorded = read(tmp_path / "merged" / "manifest.json"), read(RECORDED / "runs" / "mlx" / "manifest.json")
    assert manifest["shard"] is None and manifest["rows"] == recorded["rows"] and manifest["end"]
    assert manifest["hashes"] == recorded["hashes"]


def test_a_table_from_elsewhere_becomes_the_recorded_run(tmp_path: Path) -> None:
    run("eval.bring", "--input", HERE / "elsewhere.csv", "--data", HERE / "shop", "--output", tmp_path / "elsewhere",
        "--fields", "name=product", "brand=house", "price=cost")  # fmt: skip
    expected = by_id(RECORDED / "runs" / "elsewhere")
    # The version that recorded it could not read "95,00 €" in a column of EUR; today it is a price.
    for row in expected.values():
        assert row["predicted"]["price"] == {"value": None, "status": "malformed"}
        row["predicted"]["price"] = {"value": 95.0, "status": "ok"}
    assert_same_answers(by_id(tmp_path / "elsewhere"), expected)
    recorded = read(RECORDED / "runs" / "elsewhere" / "manifest.json")
    held = ("hashes", "settings", "task", "split", "rows")
    assert_same(read(tmp_path / "elsewhere" / "manifest.json"), {key: recorded[key] for key in held})


def test_the_recorded_packed_model_takes_the_adapter_of_its_source_and_answers_as_recorded() -> None:
    need("mlx")
    picture = sorted((RECORDED / "shop" / "images").glob("*/*.png"))[0].relative_to(ROOT)
    # What --question made of this question then; today it has the white space that training gives it.
    prompt = "<|user|>\n<|image_1|>\nWhat does this shop sell here?<|end|>\n<|assistant|>\n"
    answer = last_line(
        run("mlx_phi3v.generate", "--model", HERE / "packed", "--adapter", HERE / "training-mlx", "--image", picture, "--dtype",
            "float32", "--prompt", prompt, "--num-crops", "1", "--json")
    )  # fmt: skip
    recorded = read(RECORDED / "packed.answer.json")
    assert {key: answer[key] for key in ("text", "finish", "token_ids")} == {
        key: recorded[key] for key in ("text", "finish", "token_ids")
    }
    assert answer["logprobs"] == pytest.approx(recorded["logprobs"], abs=1e-3)  # as in assert_same_answers


def header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    value: dict[str, Any] = json.loads(data[8 : 8 + length])
    return value


def test_conversion_and_fusion_write_the_recorded_identity(tmp_path: Path) -> None:
    need("mlx")
    packed, fused = tmp_path / "packed", tmp_path / "fused"
    run("mlx_phi3v.convert", "--model", HERE / "model", "--mlx-path", packed, "-q", "--q-group-size", "32", *UNCHECKED)
    assert_same(read(packed / "conversion.json"), read(RECORDED / "packed" / "conversion.json"))
    assert header(packed / "model.safetensors") == header(RECORDED / "packed" / "model.safetensors")
    run("mlx_phi3v.fuse", "--model", HERE / "packed", "--adapter", HERE / "training-mlx", "--save-path", fused, *UNCHECKED)
    assert_same(read(fused / "conversion.json"), read(RECORDED / "fused.conversion.json"))
