"""A prediction run reads each photo once, and gives an adapter the prompt it was trained on."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.writer import CatalogueWriter
from eval.predict.__main__ import main
from eval.runs.prediction import Prediction
from eval.runs.writer import RunWriter
from mlx_phi3v import photo as photo_module
from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.catalogue import PRODUCT, Catalogue
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.decoding import LoadedModel, load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, Task, chat_prompt
from mlx_phi3v.trained_task import TrainedTask

_opened: Counter[str] = Counter()


def _count_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        _opened[str(arguments[0])] += 1


sys.addaudithook(_count_opened)  # cannot be taken off again; it only counts


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def run(backend: str, catalogue: Path, output: Path, *flags: str) -> list[dict[str, Any]]:
    arguments = ["--backend", backend, "--data", str(catalogue), "--output", str(output), "--max-new-tokens", "2"]
    assert main([*arguments, *flags]) == 0
    return predictions(output)


def test_each_photo_is_read_once_and_decoded_at_most_once(
    backend_name: str, small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()
    real = photo_module.open_photo

    def counted(source: Any, **options: Any) -> Any:
        decoded[options["name"]] += 1
        return real(source, **options)

    monkeypatch.setattr(photo_module, "open_photo", counted)
    photos = {path for row in Catalogue(small_catalogue).split("test")[:] for path in row["images"]}
    cache = ["--feature-cache", str(tmp_path / "features"), "--num-crops", "1"]
    found = []
    for name in ("first", "cached"):
        _opened.clear()
        decoded.clear()
        found.append(run(backend_name, small_catalogue, tmp_path / name, *cache))
        assert {path: _opened[path] for path in photos} == dict.fromkeys(photos, 1)
        assert set(decoded) == photos and set(decoded.values()) == {1}
    assert [row["token_ids"] for row in found[0]] == [row["token_ids"] for row in found[1]]


def test_a_run_is_the_same_at_any_batch_size_and_after_an_interruption(
    backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of unlike length: rows join as others end, and are written as they end."""

    def with_many_stop_tokens(*given: Any, **options: Any) -> LoadedModel:
        model = load_model(*given, **options)
        model.prompts.stop_ids = tuple(range(0, model.backend.config.vocab_size, 9))
        return model

    monkeypatch.setattr("eval.predict.answer_rows.load_model", with_many_stop_tokens)

    def interrupted(self: RunWriter, row: Prediction) -> None:
        if len(self.done) == 5:
            raise KeyboardInterrupt
        write(self, row)

    write = RunWriter.write
    flags = ["--model", str(checkpoint), "--split", "train", "--num-crops", "1", "--max-new-tokens", "9"]
    ids = [row["id"] for row in Catalogue(small_catalogue).split("train")[:]]
    for sampling in ([], ["--temperature", "1", "--top-p", "0.9", "--seed", "5"]):
        found = []
        for size in (1, 3):
            output = tmp_path / f"run-{size}-{len(sampling)}"
            found.append(run(backend_name, small_catalogue, output, *flags, *sampling, "--batch-size", str(size)))
            assert [row["id"] for row in found[-1]] == ids and all(row["seconds"] >= 0 for row in found[-1])
            assert len({len(row["token_ids"]) for row in found[-1]}) > 2
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RunWriter, "write", interrupted)
            run(backend_name, small_catalogue, tmp_path / f"stopped-{len(sampling)}", *flags, *sampling, "--batch-size", "4")
        if sampling:  # one that another version drew in another way is not gone on with
            with monkeypatch.context() as patch, pytest.raises(UserError, match="decoding"):
                patch.setattr("eval.predict.run_manifest.DRAWS", 1)
                run(backend_name, small_catalogue, tmp_path / f"stopped-{len(sampling)}", *flags, *sampling)
        found.append(run(backend_name, small_catalogue, tmp_path / f"stopped-{len(sampling)}", *flags, *sampling))
        assert [row["id"] for row in found[-1]] == ids
        for rows in found[1:]:
            assert [(row["token_ids"], row["finish"]) for row in rows] == [(r["token_ids"], r["finish"]) for r in found[0]]


def test_a_photo_that_cannot_be_read_loses_no_answer_of_the_rows_before_it(
    backend_name: str, small_catalogue: Path, tmp_path: Path
) -> None:
    shop = Path(shutil.copytree(small_catalogue, tmp_path / "shop"))
    rows = Catalogue(shop).split("train")[:]
    broken = next(number for number in range(4, len(rows)) if rows[number]["images"])
    earlier = {path for row in rows[:broken] for path in row["images"]}
    path = next(path for path in rows[broken]["images"] if path not in earlier)
    Path(path).write_bytes(b"no photo")
    with pytest.raises(UserError, match=f"row {rows[broken]['id']!r}"):
        run(backend_name, shop, tmp_path / "run", "--split", "train", "--num-crops", "1", "--batch-size", "3")
    assert {row["id"] for row in predictions(tmp_path / "run")} == {row["id"] for row in rows[:broken]}


def test_a_prediction_holds_the_product_of_its_row(backend_name: str, tmp_path: Path) -> None:
    with CatalogueWriter(tmp_path / "shop", Task(), name="shop", source={}, settings={}, products=True) as writer:
        for i in range(3):
            row = {"id": f"p{i}", "images": [], "title": "Scarf", "category3_code": "SCARVES", "full_price": 1.0}
            writer.add("test", row | {PRODUCT: "p0" if i < 2 else None})
    rows = run(backend_name, tmp_path / "shop", tmp_path / "run")
    assert [row.get("product") for row in rows] == ["p0", "p0", None]


def test_the_bits_of_keys_and_values_belong_to_a_run(backend_name: str, small_catalogue: Path, tmp_path: Path) -> None:
    flags = ("--limit", "1", "--num-crops", "1")
    run(backend_name, small_catalogue, tmp_path / "packed", *flags, "--kv-bits", "8")
    run(backend_name, small_catalogue, tmp_path / "plain", *flags)
    settings = [json.loads((tmp_path / name / "manifest.json").read_text())["settings"] for name in ("packed", "plain")]
    assert settings[0] == settings[1] | {"kv_bits": 8}  # a run of before knows no such setting
    with pytest.raises(UserError, match=r"settings\.kv_bits was 8, is null"):
        run(backend_name, small_catalogue, tmp_path / "packed", *flags)


def test_the_manifest_holds_the_settings_of_the_adapters_training(small_catalogue: Path, adapter: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    settings = {"written_by": "x", "seed": 7, "learning_rate": 0.1, "output": "elsewhere", "save_every": 3}
    for place, found in ((adapter, True), (adapter.parent, True), (None, False)):
        for old in (adapter, adapter.parent):
            (old / "settings.json").unlink(missing_ok=True)
        if place:
            (place / "settings.json").write_text(json.dumps(settings))
        output = tmp_path / f"run-{place.name if place else 'none'}"
        run("torch", small_catalogue, output, "--adapter", str(adapter), "--limit", "1")
        recorded = json.loads((output / "manifest.json").read_text())["training"]
        assert recorded == ({"seed": 7, "learning_rate": 0.1} if found else None)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    base, config = resolve_model("tiny"), AdapterArgs(r=2, target_modules=LANGUAGE)
    save_adapter(tmp_path / "adapter", config, init_adapter(load_model_config(base), config, seed=0), base_fingerprint(base))
    return tmp_path / "adapter"


def test_an_adapters_task_and_crops_are_used(
    adapter: Path, small_catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    task = Task((Field("full_price", "number", "USD"),), chat_prompt("What does this cost?", 1), "Price: {full_price}")
    TrainedTask(task, 1, "float32").save(adapter)
    rows = run("torch", small_catalogue, tmp_path / "run", "--adapter", str(adapter))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["task"] == task.to_dict() and manifest["settings"]["num_crops"] == 1
    assert all(set(row["true"]) == {"full_price"} for row in rows)
    assert "using the prompt of the adapter's training" in capsys.readouterr().err


def test_fields_that_the_catalogue_lacks_leave_its_own_task(
    adapter: Path, small_catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    TrainedTask(Task((Field("colour", "text"),), template="Colour: {colour}"), 1, "float32").save(adapter)
    run("torch", small_catalogue, tmp_path / "run", "--adapter", str(adapter))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["task"] == Catalogue(small_catalogue).task.to_dict()
    printed = " ".join(capsys.readouterr().err.split())
    assert "the adapter was trained on colour" in printed and "lacks" in printed


def test_an_id_that_comes_twice_is_refused_before_anything_is_written(small_catalogue: Path, tmp_path: Path) -> None:
    shop = Path(shutil.copytree(small_catalogue, tmp_path / "shop"))
    path = shop / "test-00000.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    ids = ["a", *table["id"].to_pylist()[1:-1], "a"]
    table = table.set_column(table.schema.names.index("id"), "id", pa.array(ids))
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"test-00000\.arrow has the id 'a' a second time"):
        run("mlx", shop, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run("mlx", shop, tmp_path / "run", "--limit", "2")
