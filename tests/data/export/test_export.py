"""A catalogue as Parquet, on the hub and back: the same rows, photos and fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from data.export.__main__ import main
from data.export.export import export_data
from data.export.settings import ExportDataConfig
from data.ingest import main as ingest_main
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from data.writer import CatalogueWriter
from mlx_phi3v.catalogue import Catalogue, iterate
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, Task
from mlx_phi3v.turns import TURNS
from tests.helpers import hub as hubs
from tests.helpers.catalogue import random_picture
from tests.helpers.hub import TOKEN, StandIn
from tests.helpers.paths import ROOT

RECORDED = ROOT / "tests" / "recorded"
EVIL = '"><img src=x onerror=alert(1)> | [a](http://b) `c`\n# d\n---\nlicense: mit'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty hub, which this process takes for the hub, `datasets` too."""
    import datasets

    with hubs.stand_in() as server:
        hubs.use(server, str(tmp_path / "cache"), monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr("mlx_phi3v.hub.upload._PAUSE", 0.0)
        yield server


@pytest.fixture(scope="module")
def exported(small_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_catalogue`, in files of at most 100 kB of photos."""
    folder = tmp_path_factory.mktemp("exported") / "parquet"
    export_data(ExportDataConfig(small_catalogue, folder, shard_mb=1))
    return folder


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows by split, their photos as bytes."""
    catalogue = Catalogue(folder)
    found = {name: list(iterate(catalogue.split(name))) for name in catalogue.info["splits"]}
    for row in (row for rows in found.values() for row in rows):
        row["images"] = [Path(path).read_bytes() for path in row["images"]]
    return found


def test_the_command_says_what_it_made_of_an_export(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert ingest_main([str(exported), "-o", str(tmp_path / "back")]) == 0
        assert re.search(r"back: \d+ rows as they were exported; train \d+", capsys.readouterr().out)
    for flags in (["--dry-run", "3"], ["--field", "title=title"]):
        with pytest.raises(UserError, match="is an exported catalogue, which is made again as it is; leave out the flags"):
            ingest_main([str(exported), "-o", str(tmp_path / "other"), *flags])


@pytest.mark.parametrize("name", ["small", "shop", "published"])
def test_an_export_comes_back_row_by_row(name: str, small_catalogue: Path, tmp_path: Path) -> None:
    source = small_catalogue if name == "small" else RECORDED / name
    export_data(ExportDataConfig(source, tmp_path / "out"))
    info = ingest(IngestConfig(str(tmp_path / "out"), tmp_path / "back"))
    assert info["fingerprint"] == Catalogue(source).fingerprint and info["task"] == Catalogue(source).info["task"]
    assert rows_of(tmp_path / "back") == rows_of(source)
    assert sorted(path.name for path in (tmp_path / "back").iterdir() if path.suffix != ".arrow") == [
        "catalogue.json",
        "images",
    ]


def test_conversations_numbers_and_products_come_back(tmp_path: Path) -> None:
    turns = [{"question": "Who made it?", "images": 1, "answer": "Nobody."}, {"question": "So?", "images": 0, "answer": None}]
    extra = {"weight": pa.float32(), "count": pa.int8(), "tags": pa.list_(pa.string()), "made": pa.timestamp("us")}
    from mlx_phi3v.catalogue_checks import TURNS_TYPE

    task = Task((Field("title", "text"), Field("price", "number", "EUR")), template="Title: {title}, Price: {price}")
    with CatalogueWriter(
        tmp_path / "c", task, name="c", source={}, settings={}, extra={**extra, TURNS: TURNS_TYPE}, products=True
    ) as w:
        data = io.BytesIO()
        random_picture(30, 40, 1).save(data, "PNG")
        row = {"id": "1", "images": [w.add_image(data.getvalue(), ".png")], "title": "Ä\u2028ß", "price": 0.1, TURNS: turns}
        w.add("train", row | {"weight": 0.3, "count": -3, "tags": ["a", None], "_product": "1"})
        w.add("train", {"id": "2", "images": [], "title": None, "price": None, "_product": "1"})
    export_data(ExportDataConfig(tmp_path / "c", tmp_path / "out"))
    info = ingest(IngestConfig(str(tmp_path / "out"), tmp_path / "back"))
    assert info["format"] == 2 and rows_of(tmp_path / "back") == rows_of(tmp_path / "c")
    assert Catalogue(tmp_path / "back").split("train").column("_product") == ["1", "1"]


def test_datasets_reads_it_with_photos_as_pictures(exported: Path, small_catalogue: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(exported), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 12, "validation": 3, "test": 4}
    assert loaded["train"].features["images"] == datasets.List(datasets.Image())
    row = next(iterate(Catalogue(small_catalogue).split("train")))
    photo = loaded["train"][0]["images"][0]
    assert photo.size == (300, 300) and photo.tobytes() == Image.open(row["images"][0]).tobytes()
    assert loaded["train"][0]["title"] == row["title"] and loaded["train"][0]["full_price"] == row["full_price"]


def test_shards_hold_so_many_bytes_and_are_the_same_each_time(small_catalogue: Path, tmp_path: Path) -> None:
    from data.export.write_export import write_export

    for name in ("a", "b"):
        write_export(Catalogue(small_catalogue), tmp_path / name, shard_bytes=300_000)
    files = sorted((tmp_path / "a" / "data").iterdir())
    train = [path for path in files if path.name.startswith("train")]
    assert len(train) > 1 and train[-1].name == f"train-{len(train) - 1:05d}-of-{len(train):05d}.parquet"
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / "data" / path.name).read_bytes()
        photos = [photo["bytes"] for row in parquet.read_table(path).to_pylist() for photo in row["images"]]
        assert sum(map(len, photos)) <= 300_000 or len(photos) == 1
    ingest(IngestConfig(str(tmp_path / "a"), tmp_path / "back"))
    assert rows_of(tmp_path / "back") == rows_of(small_catalogue)


def test_a_second_export_does_nothing_and_another_does_not_write_over_it(
    exported: Path, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert export_data(ExportDataConfig(small_catalogue, exported, shard_mb=1))["rows"] == {
        "train": 12,
        "validation": 3,
        "test": 4,
    }
    assert before == {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(UserError, match="not empty"):
        export_data(ExportDataConfig(small_catalogue, exported, license="mit"))
    with pytest.raises(UserError, match="give --output"):
        main([str(small_catalogue)])
    with pytest.raises(UserError, match="--public and --revision"):
        main([str(small_catalogue), "--output", "x", "--public"])


def test_on_the_hub_and_back(
    hub: StandIn, small_catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    main([str(small_catalogue), "--to-hub", "somebody/shop", "--license", "cc-by-4.0", "--json"])
    uploaded = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert uploaded["event"] == "uploaded" and uploaded["url"] == f"{hub.url}/datasets/somebody/shop"
    repo = hub.dataset("somebody/shop")
    shards = [f"data/{name}-00000-of-00001.parquet" for name in ("test", "train", "validation")]
    assert sorted(repo.files) == ["README.md", *shards, "export.json"] and repo.private
    head = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    assert head["license"] == "cc-by-4.0" and head["size_categories"] == ["n<1K"]
    assert Catalogue(small_catalogue).fingerprint in repo.files["README.md"].decode()
    ingest(IngestConfig("somebody/shop", tmp_path / "back"))
    assert rows_of(tmp_path / "back") == rows_of(small_catalogue)
    assert TOKEN not in "".join(data.decode("utf-8", "replace") for data in repo.files.values())
    sent = len(hub.uploads)
    main([str(small_catalogue), "--to-hub", "somebody/shop", "--license", "cc-by-4.0"])
    assert len(hub.uploads) == sent and len(repo.commits) == 1
    # Another data set of the hub goes its own way: rows of `datasets`, with the columns that the user names.
    del repo.files["export.json"]
    loaded = datasets.load_dataset("somebody/shop", cache_dir=str(tmp_path / "datasets"))
    assert loaded["test"][3]["id"] == "test-3"


def test_an_upload_that_failed_half_way_sends_only_the_rest(hub: StandIn, small_catalogue: Path, exported: Path) -> None:
    config = ExportDataConfig(small_catalogue, exported, to_hub="somebody/shop", shard_mb=1)
    hub.faults["PUT "] = [0, 500]  # one file arrives
    with pytest.raises(UserError, match=r"not all of it is on the hub .*HTTP 500"):
        export_data(config)
    arrived = list(hub.uploads)
    with pytest.raises(UserError) as refused:  # without --output nothing is left here to go on from
        export_data(dataclasses.replace(config, output=None))
    assert str(refused.value).startswith(f"{small_catalogue} is whole") and "mlx_phi3v.upload" not in str(refused.value)
    hub.faults.clear()
    export_data(config)
    shards = [hashlib.sha256(path.read_bytes()).hexdigest() for path in exported.rglob("*.parquet")]
    assert len(arrived) == 1 and sorted(hub.uploads) == sorted(shards) and len(shards) == 3


def test_what_is_not_an_export_any_more_is_refused(exported: Path, tmp_path: Path) -> None:
    def changed(name: str) -> Path:
        shutil.copytree(exported, tmp_path / name)
        return tmp_path / name

    def refused(folder: Path, said: str) -> None:
        with pytest.raises(UserError, match=said):
            ingest(IngestConfig(str(folder), tmp_path / "back"))
        assert not (tmp_path / "back").exists()

    path = changed("rows") / "data" / "test-00000-of-00001.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.slice(1), path)
    refused(tmp_path / "rows", "not those that were exported")
    path = changed("cut") / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    refused(tmp_path / "cut", "not a whole Parquet file")
    (changed("missing") / "data" / "train-00000-of-00001.parquet").unlink()
    refused(tmp_path / "missing", "is missing")
    record = json.loads((exported / "export.json").read_text())
    record["splits"]["test"]["files"] = ["../../secret.parquet"]
    (changed("outside") / "export.json").write_text(json.dumps(record))
    refused(tmp_path / "outside", "must be the name of a file in its folder")
    record["splits"] = {"../x": {"rows": 1, "files": ["data/test-00000-of-00001.parquet"]}}
    (tmp_path / "outside" / "export.json").write_text(json.dumps(record))
    refused(tmp_path / "outside", "has a split")
    (tmp_path / "outside" / "export.json").write_text(json.dumps({**record, "format": 2}))
    refused(tmp_path / "outside", "format is 2")


def test_names_from_outside_are_text_in_the_card(tmp_path: Path) -> None:
    task = Task((Field("title", "text"), Field("price", "number", "EUR")), template="Title: {title}, Price: {price}")
    with CatalogueWriter(tmp_path / "c", task, name=EVIL, source={}, settings={}, extra={"a|<b>x</b>": pa.string()}) as writer:
        writer.add("train", {"id": "1", "images": [], "title": "x", "price": 1.0, "a|<b>x</b>": "y"})
    export_data(ExportDataConfig(tmp_path / "c", tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert "license" not in yaml.safe_load(head) and yaml.safe_load(head)["pretty_name"].startswith('"><img')
    assert "<img" not in body and "<b>" not in body and "](http" not in body and "\n# d" not in body
    assert "Unknown: who exported it did not say." in body
