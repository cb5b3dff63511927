"""Folders of photos and tables are read as the hub, Kaggle and a shop's own folder have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest.sources import Source, open_source
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes


def fill(folder: Path, files: dict[str, str | bytes]) -> Source:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(str(folder))


def seen(source: Source) -> list[tuple[Any, str | None]]:
    """(the photo as a path from the source's folder, the split) of each row."""
    top = Path(source.name).resolve()
    found = []
    for row in source.rows():
        assert isinstance(row.values, dict) and row.root is not None
        name = row.values.get("file_name") or row.values["image"]
        path = Path(row.root, str(name))
        assert path.is_file(), path
        found.append((path.relative_to(top).as_posix(), row.split))
    return found


PHOTO = photo_bytes(1)
LINE = json.dumps({"file_name": "a.jpg", "title": "Pot"})


def test_metadata_in_the_folders_of_splits(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train/metadata.jsonl": LINE,
        "train/a.jpg": PHOTO,
        "test/metadata.jsonl": LINE,
        "test/a.jpg": PHOTO,
    }
    assert seen(fill(tmp_path, files)) == [("test/a.jpg", "test"), ("train/a.jpg", "train")]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_metadata_in_folders_below(table: str, tmp_path: Path) -> None:
    text = LINE if table.endswith("l") else "file_name,title\na.jpg,Pot\n"
    files: dict[str, str | bytes] = {f"shop/{k}/{table}": text for k in ("x", "y")}
    files |= {f"shop/{k}/a.jpg": PHOTO for k in ("x", "y", "z")}
    source = fill(tmp_path, files)
    assert seen(source) == [("shop/x/a.jpg", None), ("shop/y/a.jpg", None)]
    assert source.notes == ("left out: 1 photos in folders without metadata.csv, .jsonl or .parquet",)


def test_metadata_below_the_folders_of_splits(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"data/{s}/x/metadata.jsonl": LINE for s in ("train", "validation")}
    files |= {f"data/{s}/x/a.jpg": PHOTO for s in ("train", "validation")}
    assert seen(fill(tmp_path, files)) == [("data/train/x/a.jpg", "train"), ("data/validation/x/a.jpg", "validation")]


def test_a_table_beside_the_folders_of_splits_is_the_data(tmp_path: Path) -> None:
    table = "image,title,price\ntrain/a.jpg,Pot,5\ntest/b.jpg,Pan,6\n"
    source = fill(tmp_path, {"products.csv": table, "train/a.jpg": PHOTO, "test/b.jpg": PHOTO})
    assert seen(source) == [("train/a.jpg", None), ("test/b.jpg", None)]
    assert set(source.columns) == {"image", "title", "price"}


def test_tables_of_splits_beside_their_folders(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.csv": "image,title\na.jpg,Pot\n", "test.csv": "image,title\nb.jpg,Pan\n"}
    files |= {"train/a.jpg": PHOTO, "test/b.jpg": PHOTO, "sample_submission.csv": "id,label\n1,0\n"}
    assert seen(fill(tmp_path, files)) == [("test/b.jpg", "test"), ("train/a.jpg", "train")]


def test_photos_in_a_folder_of_the_usual_name(tmp_path: Path) -> None:
    table = "image,title\na.jpg,Pot\n"
    assert seen(fill(tmp_path, {"shop/styles.csv": table, "shop/images/a.jpg": PHOTO})) == [("shop/images/a.jpg", None)]


def test_a_table_wins_over_the_photos_beside_it(tmp_path: Path) -> None:
    source = fill(tmp_path, {"t.csv": "image,title\na.jpg,Pot\n", "a.jpg": PHOTO, "b.jpg": PHOTO, "readme.txt": "x"})
    assert seen(source) == [("a.jpg", None)]


def test_photos_of_every_ending_and_files_that_are_none(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jfif", "c.jpe", "d.HEIC", "e.avif", "f.webp", "g"]
    files: dict[str, str | bytes] = {f"hats/{name}": PHOTO for name in names}
    source = fill(tmp_path, files | {"hats/notes": "x", "hats/x.pdf": "x", "y.pdf": "x", ".hidden": "x"})
    assert [path for path, _ in seen(source)] == [f"hats/{name}" for name in sorted(names)]
    assert source.notes == ("3 files are no photos and were passed over (2 .pdf, 1 without suffix)",)


def test_a_feed_is_the_data_only_where_it_is_alone(tmp_path: Path) -> None:
    feed = "<rss><channel><item><title>Pot</title></item><item><title>Pan</title></item></channel></rss>"
    assert fill(tmp_path / "one", {"feed.xml": feed}).count == 2
    boxes: dict[str, str | bytes] = {f"hats/{k}.xml": "<annotation/>" for k in "ab"} | {f"hats/{k}.jpg": PHOTO for k in "ab"}
    assert [path for path, _ in seen(fill(tmp_path / "two", boxes))] == ["hats/a.jpg", "hats/b.jpg"]


def test_tables_of_one_folder_with_the_same_columns_are_read_as_one(tmp_path: Path) -> None:
    for name in ("BAGS", "SHOES"):
        (tmp_path / f"{name}.csv").write_text(f"title,price,image\n{name} one,5,a.jpg\n")
    source = open_source(str(tmp_path))
    assert [row.values for row in source.rows()] == [
        {"title": f"{name} one", "price": "5", "image": "a.jpg", "category": name} for name in ("BAGS", "SHOES")
    ]
    assert any("each table's name is in the column 'category'" in note for note in source.notes)
    (tmp_path / "SHOES.csv").write_text("title,cost\nx,5\n")
    with pytest.raises(UserError, match="holds several tables"):
        open_source(str(tmp_path))


def test_tables_alike_in_folders_below_are_read_as_one(tmp_path: Path) -> None:
    for name in ("Men/BAGS", "Women/BAGS"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.csv").write_text(f"title,category,image\n{name} one,Bags,https://x.example/a.jpg\n")
    source = open_source(str(tmp_path))
    assert [row.values["table"] for row in source.rows() if isinstance(row.values, dict)] == ["Men/BAGS", "Women/BAGS"]
    assert source.columns.keys() == {"title", "category", "image", "table"}
