"""Corrected rows are saved once each, and are a catalogue that can be trained on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data.catalogue import Catalogue
from data.ingest import main as ingest
from mlx_phi3v.photo import Photo
from mlx_phi3v.serve.corrections import TABLE, Corrections
from mlx_phi3v.serve.models import ServedModel
from mlx_phi3v.serve.refusals import Refusal
from mlx_phi3v.train import TrainConfig, train
from tests.helpers.serving import Serving, data_url, png

TITLES = ["Wool scarf “red”, 2 m", "Bag <b>", "Écharpe | été"]


def correct(mlx_server: Serving, photo: bytes, **fields: Any) -> Any:
    return mlx_server.post(
        "/page/correct", {"photo": data_url(photo), "model": "tiny", "fields": fields, "answer": "Product: x"}
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TABLE).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(mlx_server: Serving) -> Path:
    folder = mlx_server.config.corrections
    assert folder is not None
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def test_corrected_rows_are_ingested_as_they_are_and_trained_on(mlx_server: Serving, folder: Path, tmp_path: Path) -> None:
    for i, title in enumerate(TITLES):
        saved = correct(mlx_server, png(seed=i), title=title, category3_code="SCARVES" if i else None, full_price=f"1,20{i}.50")
        assert saved.status_code == 201 and saved.json()["rows"] == i + 1
    assert ingest([str(folder), "--output", str(tmp_path / "catalogue"), "--processes", "1", "--validation", "0"]) == 0
    catalogue = Catalogue(tmp_path / "catalogue")
    assert catalogue.task == mlx_server.models[0].loaded.task
    made = {row["title"]: row for row in catalogue.split("train")}
    assert set(made) == set(TITLES) and [made[title]["full_price"] for title in TITLES] == [1200.5, 1201.5, 1202.5]
    assert made[TITLES[0]]["category3_code"] is None and made[TITLES[1]]["category3_code"] == "SCARVES"
    assert Path(made[TITLES[2]]["images"][0]).read_bytes() == png(seed=2)
    train(TrainConfig(data=catalogue.folder, output=tmp_path / "run", max_steps=1, batch_size=2, r=2, val_rows=0))
    assert (tmp_path / "run" / "last" / "adapter_config.json").is_file()


def test_a_photo_that_is_corrected_again_keeps_its_last_row(mlx_server: Serving, folder: Path) -> None:
    correct(mlx_server, png(seed=1), title="First")
    correct(mlx_server, png(seed=2), title="Other")
    assert correct(mlx_server, png(seed=1), title="Second").json()["rows"] == 2
    assert [row["title"] for row in rows(folder)] == ["Other", "Second"]
    assert len(list((folder / "photos").iterdir())) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"full_price": "12,50"}, "full_price is '12,50'; write a number such as 1250.50"),
        ({"full_price": "-1"}, "write a number"),
        ({"full_price": "1e999"}, "write a number"),
        ({"title": "x" * 1001}, "title has 1001 letters; at most 1000"),
        ({"title": " "}, "no field has a value"),
        ({"colour": "red"}, '"colour" is no field of this model'),
        ({"title": "A, Category: B"}, "could not be read back"),
        ({"title": "A\x00"}, "control characters"),
        ({"title": ["x"]}, "fields"),
    ],
)
def test_a_value_that_no_answer_could_hold_is_refused(mlx_server: Serving, folder: Path, fields: Any, message: str) -> None:
    refused = correct(mlx_server, png(), **fields)
    assert refused.status_code == 400 and message in refused.json()["error"]["message"]
    assert not folder.exists()


def test_a_bad_photo_is_not_saved(mlx_server: Serving, folder: Path) -> None:
    assert correct(mlx_server, b"no photo", title="x").json()["error"]["code"] == "bad_photo"
    assert not folder.exists()


def test_special_tokens_are_made_harmless(mlx_server: Serving, folder: Path) -> None:
    assert correct(mlx_server, png(), title="A<|end|> hat").status_code == 201
    assert rows(folder)[0]["title"] == "A‹|end|> hat"
    assert correct(mlx_server, png(), title="\ud800 hat").status_code == 400  # a JSON escape of half a letter
    assert len(rows(folder)) == 1


def test_two_servers_may_save_into_one_folder(mlx_server: Serving, tmp_path: Path) -> None:
    writers = [Corrections(tmp_path / "both"), Corrections(tmp_path / "both")]
    model = mlx_server.models[0]

    def add(i: int) -> None:
        writers[i % 2].add(Photo("photo", png(seed=i)), model, {"title": f"Hat {i}"}, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(8)))
    assert sorted(row["title"] for row in rows(tmp_path / "both")) == [f"Hat {i}" for i in range(8)]


def test_a_table_that_was_damaged_is_named_and_left(mlx_server: Serving, folder: Path) -> None:
    correct(mlx_server, png(), title="Hat")
    (folder / TABLE).write_text((folder / TABLE).read_text() + "{\n")
    refused = correct(mlx_server, png(seed=1), title="Scarf")
    assert (
        refused.status_code == 400 and f"line 2 of {folder / TABLE} is no corrected row" in refused.json()["error"]["message"]
    )
    assert (folder / TABLE).read_text().endswith("{\n")


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    mlx_server: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct(mlx_server, png(), title="Hat")
    before = (folder / TABLE).read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full)
    refused = correct(mlx_server, png(seed=1), title="Scarf")
    monkeypatch.undo()
    assert refused.status_code == 507 and "free some space" in refused.json()["error"]["message"]
    assert (folder / TABLE).read_bytes() == before and len(list(folder.rglob("*.*"))) == 3
    assert correct(mlx_server, png(seed=1), title="Scarf").json()["rows"] == 2


def test_another_tasks_folder_is_refused(mlx_server: Serving, tmp_path: Path) -> None:
    corrections, model = Corrections(tmp_path / "other"), mlx_server.models[0]
    corrections.add(Photo("photo", png()), model, {"title": "Hat"}, None)
    (tmp_path / "other" / "ingest.yaml").write_text("fields: {}\n")
    with pytest.raises(Refusal, match="holds corrections of another task"):
        corrections.add(Photo("photo", png(seed=1)), model, {"title": "Hat"}, None)
    (tmp_path / "other" / "ingest.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(Refusal, match="holds corrections of another task"):
        corrections.add(Photo("photo", png(seed=1)), model, {"title": "Hat"}, None)
    assert isinstance(model, ServedModel) and len(rows(tmp_path / "other")) == 1


def test_a_folder_of_the_users_own_files_is_refused(mlx_server: Serving, folder: Path) -> None:
    folder.mkdir()
    (folder / TABLE).write_text('{"file_name": "mine.jpg"}\n')
    refused = correct(mlx_server, png(), title="Hat")
    assert refused.status_code == 409 and "holds other files; start the server with a new folder" in refused.text
    assert [path.name for path in folder.iterdir()] == [TABLE] and len(rows(folder)) == 1
