"""Two trainings side by side: settings and loss curves, read only where the folder holds what the run was made with."""

from __future__ import annotations

import json
from pathlib import Path

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.report import page
from eval.report.phrases import training_lines
from eval.runs.run import Run
from eval.runs.training_settings import setting_differences
from mlx_phi3v.files import sha256_file
from tests.helpers.synthetic_runs import make_rows, write_run

ROWS = make_rows(20)


def training(folder: Path, **changes: object) -> tuple[str, str]:
    """A training folder; returns its path and the hash of its best weights."""
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "adapter_config.json").write_text("{}")
    (folder / "best" / "adapter_model.safetensors").write_bytes(str(changes).encode())
    settings = {"learning_rate": 1e-3, "seed": 0, "data": "shop", "total_steps": 3, "output": str(folder), "batch_size": 4}
    (folder / "settings.json").write_text(json.dumps(settings | changes))
    records = [{"step": step, "loss": 1.0 / step, **({"val_loss": 0.5} if step == 3 else {})} for step in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 4, "lo')
    return str(folder), sha256_file(folder / "best" / "adapter_model.safetensors")


def run(tmp_path: Path, name: str, adapter: str, digest: str) -> Run:
    return write_run(tmp_path / name, ROWS, adapter=adapter, hashes={"adapter": digest})


def compared(tmp_path: Path) -> Comparison:
    a = run(tmp_path, "a", *training(tmp_path / "one"))
    b = run(tmp_path, "b", *training(tmp_path / "two", learning_rate=2e-3, seed=1))
    return compare_runs(a, b, resamples=20)


def test_settings_that_differ_and_losses_are_side_by_side(tmp_path: Path) -> None:
    found = compared(tmp_path).trainings
    assert found is not None
    assert [str(item) for item in found.differences] == ["learning_rate: 0.001 | 0.002", "seed: 0 | 1"]
    assert found.same == {"data": "shop", "total_steps": 3, "batch_size": 4}
    assert found.a.loss == [(1, 1.0), (2, 0.5), (3, 1 / 3)] and found.b.val_loss == [(3, 0.5)]
    assert "last loss: 0.3333 at step 3 | 0.3333 at step 3" in training_lines(found)


def test_the_settings_that_a_run_recorded_are_used_where_the_folder_is_gone(tmp_path: Path) -> None:
    gone = [
        write_run(tmp_path / name, ROWS, adapter="nowhere", hashes={"adapter": name * 64}, training={"seed": seed, "r": 4})
        for seed, name in enumerate("ab")
    ]
    found = compare_runs(*gone, resamples=20).trainings
    assert found is not None and not found.a.loss and training_lines(found) == ["seed: 0 | 1"]
    same = write_run(tmp_path / "c", ROWS, backend="mlx", adapter="there", hashes={"adapter": "a" * 64}, training={"seed": 1})
    assert compare_runs(gone[0], same, resamples=20).trainings is None  # one adapter


def test_a_path_of_a_setting_counts_by_its_last_part() -> None:
    a, b = {"data": "/mac/shop/", "seed": 0, "r": 4}, {"data": "/cuda/shop", "seed": 1, "r": 4, "json": True}
    assert setting_differences(a, b) == []
    now = {**b, "reduce_dtype": "float32", "rank_timeout": 60.0, "report_to": ["wandb"], "upload_repo": "me/mine"}
    assert setting_differences(a, now) == []  # `a` is of a version that had none of these
    assert setting_differences(a, {**b, "r": 8, "data": "other"}) == [("data", "/mac/shop/", "other"), ("r", 4, 8)]


def test_the_page_draws_both_curves(tmp_path: Path) -> None:
    page.write_page(tmp_path / "report.html", compared(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert text.count("<polyline") == 4 and "The two trainings" in text and "learning_rate" in text


def test_a_folder_that_holds_another_adapter_by_now_is_not_read(tmp_path: Path) -> None:
    folder, digest = training(tmp_path / "one")
    other, _ = training(tmp_path / "two", seed=1)
    a, b = run(tmp_path, "a", folder, digest), run(tmp_path, "b", other, "f" * 64)
    assert compare_runs(a, b, resamples=20).trainings is None


def test_folders_that_are_not_here_or_hold_nothing_are_no_error(tmp_path: Path) -> None:
    folder, digest = training(tmp_path / "one")
    (tmp_path / "two").mkdir()
    a = run(tmp_path, "a", folder, digest)
    for i, path in enumerate((str(tmp_path / "nowhere"), str(tmp_path / "two"), "", "a\0b", "x" * 5000)):
        assert compare_runs(a, run(tmp_path, f"b{i}", path, digest), resamples=20).trainings is None
