"""Data sets of the hub: what is asked for, names of labels, photos in every form, and no file of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from data.ingest.arrow_tables import DatasetTable
from data.ingest.hub import FetchedPhotos
from data.ingest.hub_options import HubOptions
from data.ingest.sources import open_source
from data.ingest.tables import open_table
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes

LABELS = ["boots", "sandals", "hats"]
FEATURES = Features({"label": ClassLabel(names=LABELS), "tags": List(ClassLabel(names=["red", "blue"])), "n": Value("int32")})
ROWS = {"label": [2, 0, -1, None], "tags": [[0, 1], [], [1], None], "n": [1, 2, 3, 4]}
NAMED = [
    {"label": "hats", "tags": ["red", "blue"], "n": 1},
    {"label": "boots", "tags": [], "n": 2},
    {"label": None, "tags": ["blue"], "n": 3},
    {"label": None, "tags": None, "n": 4},
]


def labelled() -> Dataset:
    return Dataset.from_dict(ROWS, features=FEATURES)


def rows_of(source: Any) -> list[Any]:
    return [row.values for row in source.rows()]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "saved"])
def test_labels_are_given_by_their_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        labelled().to_parquet(str(path))
    elif kind == "arrow":
        table = labelled().with_format("arrow")[:]
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, FEATURES.arrow_schema) as writer:
            writer.write_table(table.cast(FEATURES.arrow_schema))
    else:
        labelled().save_to_disk(str(path))
    source = open_source(str(path))
    assert rows_of(source) == NAMED
    assert source.columns["label"] == pa.string() and source.columns["tags"] == pa.list_(pa.string())


def test_a_column_of_numbers_without_names_stays_one(tmp_path: Path) -> None:
    Dataset.from_dict({"label": [0, 1]}).to_parquet(str(tmp_path / "t.parquet"))
    assert [row for _, row in open_table(tmp_path / "t.parquet").rows()] == [{"label": 0}, {"label": 1}]


def test_what_the_user_says_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return labelled().to_iterable_dataset() if options.get("streaming") else labelled()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert rows_of(open_source("a/shop")) == NAMED
    options = HubOptions(config="shoes", revision="v2", split="train[:10]", streaming=True)
    assert rows_of(open_source("a/shop", hub=options)) == NAMED
    given = {"name": "shoes", "revision": "v2", "split": "train[:10]", "streaming": True}
    assert asked == [("a/shop", {}), ("a/shop", given)]


def test_a_stream_that_breaks_off_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def some() -> Any:
        yield {"n": 1}
        raise ConnectionResetError("the peer went away")

    data = datasets.IterableDataset.from_generator(some, features=Features({"n": Value("int32")}))
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: data)
    with pytest.raises(UserError, match=r"row 2 of the data set cannot be read \(.*; check the network"):
        rows_of(open_source("a/shop", hub=HubOptions(streaming=True)))


@pytest.mark.parametrize("streaming", [False, True])
def test_photos_in_every_form_are_given_undecoded(streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image as PillowImage

    (tmp_path / "a.jpg").write_bytes(photo_bytes(1))
    photos = [
        {"bytes": photo_bytes(2), "path": None},
        {"bytes": photo_bytes(3), "path": "x.jpg"},
        PillowImage.open(tmp_path / "a.jpg").convert("RGB"),
        None,
    ]
    data = Dataset.from_dict({"photo": photos, "more": [[photo], [], [photos[0]], None] if (photo := photos[1]) else []},
                             features=Features({"photo": Image(), "more": List(Image())}))  # fmt: skip
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: data.to_iterable_dataset() if streaming else data)
    found = rows_of(open_source("a/shop", hub=HubOptions(streaming=streaming)))
    assert [row["photo"] is None for row in found] == [False, False, False, True]
    assert found[0]["photo"]["bytes"] == photo_bytes(2) and found[2]["photo"]["bytes"][:2] in (b"\xff\xd8", b"\x89P")
    assert found[0]["more"][0]["bytes"] == photo_bytes(3)


def photos(folder: Path) -> Path:
    for name in ("shoes/a.jpg", "shoes/b.jpg", "bags/c.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo_bytes(ord(name[-5])))
    return folder


def of_folder(folder: Path, cache: Path) -> Dataset:
    return datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache), split="train")


def test_the_photos_of_an_image_folder_are_its_data(tmp_path: Path) -> None:
    data = of_folder(photos(tmp_path / "in"), tmp_path / "cache")
    rows = [row for _, row in DatasetTable(data, FetchedPhotos("a/shop", [data])).rows()]
    assert [row["image"]["bytes"] for row in rows] == [photo_bytes(ord(k)) for k in "cab"]  # type: ignore[index]
    assert [row["label"] for row in rows] == ["bags", "shoes", "shoes"]  # type: ignore[index]


@pytest.mark.parametrize("change", ["another file", "a label", "a photo less", "another builder"])
def test_a_data_set_that_names_other_files_gets_none(change: str, tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    data = of_folder(folder, tmp_path / "cache")
    (tmp_path / "secret.jpg").write_bytes(photo_bytes(9))
    if change == "another file":
        paths = [{"bytes": None, "path": str(tmp_path / "secret.jpg")}, *data.with_format("arrow")[:]["image"].to_pylist()[1:]]
        data = Dataset.from_dict({"image": paths, "label": data["label"]}, features=data.features, info=data.info)
    elif change == "a label":
        data = Dataset.from_dict(
            {"image": data.with_format("arrow")[:]["image"].to_pylist(), "label": [1, 1, 1]},
            features=data.features,
            info=data.info,
        )
    elif change == "a photo less":
        data = data.select([0, 1])
    else:
        data.info.builder_name = "parquet"
    fetched = FetchedPhotos("a/shop", [data])
    assert all(fetched(str(path)) is None for path in (tmp_path / "secret.jpg", folder / "shoes" / "a.jpg"))


def test_the_cache_of_the_data_set_is_read_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("datasets--a--shop/snapshots/1/x.jpg", "datasets--b--other/snapshots/1/x.jpg", "token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo_bytes(1))
    (tmp_path / "datasets--a--shop" / "link.jpg").symlink_to(tmp_path / "token")
    fetched = FetchedPhotos("a/shop", [])
    assert fetched(str(tmp_path / "datasets--a--shop/snapshots/1/x.jpg")) == photo_bytes(1)
    for name in ("datasets--b--other/snapshots/1/x.jpg", "token", "datasets--a--shop/../token", "datasets--a--shop/link.jpg"):
        assert fetched(str(tmp_path / name)) is None
