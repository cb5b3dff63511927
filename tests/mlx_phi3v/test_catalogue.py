"""Catalogues are read as rows and as tables; sizes of pictures are known without opening one."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data import writer as writer_module
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from data.writer import CatalogueWriter
from mlx_phi3v import catalogue as catalogue_module
from mlx_phi3v.catalogue import SIZES, Catalogue, Split
from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import photo_size
from mlx_phi3v.task import Task


def sizes_of(split: Split) -> list[list[tuple[int, int]]]:
    found = []
    for batch in split.image_sizes():
        ends = np.cumsum(batch.counts)
        found += [list(map(tuple, batch.sizes[end - count : end].tolist())) for end, count in zip(ends, batch.counts)]
    return found


def without_sizes(source: Path, folder: Path) -> Path:
    """The catalogue as versions before the column wrote it."""
    shutil.copytree(source, folder)
    for shard in folder.glob("*.arrow"):
        table = pa.ipc.open_stream(shard.read_bytes()).read_all().drop_columns([SIZES])
        with pa.ipc.new_stream(str(shard), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return folder


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Any) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(catalogue_module, "photo_size", opened)


def test_sizes_are_those_of_the_photos_and_no_file_is_opened(small_catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Catalogue(small_catalogue).split("train")
    expected = [[photo_size(path) for path in row["images"]] for row in split]
    assert {len(sizes) for sizes in expected} == {0, 1, 2}
    forbid(monkeypatch)
    assert split.has_sizes and sizes_of(split) == expected


def test_a_phone_photo_has_the_size_it_is_seen_in(tmp_path: Path) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (60, 40)).save(buffer, "JPEG", exif=exif)
    with CatalogueWriter(tmp_path / "c", Task(), name="c", source={}, settings={}) as writer:
        writer.add("train", {"id": "a", "images": [writer.add_image(buffer.getvalue(), ".jpg")], "title": "x"})
    assert sizes_of(Catalogue(tmp_path / "c").split("train")) == [[(40, 60)]]


def test_ingest_takes_the_sizes_as_it_decodes_and_reads_no_photo_again(
    small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = [row for row in Catalogue(small_catalogue).split("train") if len(row["images"]) == 1]
    for i, row in enumerate(rows):
        shutil.copy(row["images"][0], folder / f"{i}.png")
    (folder / "rows.csv").write_text("title,photo\n" + "".join(f"Scarf {i},{i}.png\n" for i in range(len(rows))))

    def opened(path: Any) -> None:
        raise AssertionError(f"{path} was read again")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "photo_size", opened)
        ingest(
            IngestConfig(
                source=str(folder / "rows.csv"), output=tmp_path / "c", fields={"title": "title"}, image="photo",
                processes=1, validation=0.0, test=0.0, near_duplicates=False,
            )
        )  # fmt: skip
    split = Catalogue(tmp_path / "c").split("train")
    assert split.has_sizes and sizes_of(split) == [[photo_size(row["images"][0])] for row in split]
    assert len({sizes[0] for sizes in sizes_of(split)}) > 1


def test_a_catalogue_without_the_column_gives_the_same_rows_and_sizes(small_catalogue: Path, tmp_path: Path) -> None:
    new, old = (
        Catalogue(folder).split("train") for folder in (small_catalogue, without_sizes(small_catalogue, tmp_path / "c"))
    )
    assert not old.has_sizes and sizes_of(old) == sizes_of(new)

    def rows(split: Split) -> list[dict[str, Any]]:
        return [{**row, "images": [Path(path).name for path in row["images"]]} for row in split]

    assert rows(old) == rows(new) and set(new[0]) == {"id", "images", "title", "category3_code", "full_price"}


def test_the_column_leaves_catalogue_json_and_fingerprint_alone(small_catalogue: Path, tmp_path: Path) -> None:
    info = json.loads((small_catalogue / "catalogue.json").read_text())
    assert info["format"] == 1 and SIZES not in info["schema"]
    # As the writer before the column hashed it: recorded from that version.
    with CatalogueWriter(tmp_path / "c", Task(), name="c", source={}, settings={}) as writer:
        writer.add("train", {"id": "a", "images": [], "title": "Wool scarf", "category3_code": "SCARVES", "full_price": 9.5})
    assert Catalogue(tmp_path / "c").fingerprint == RECORDED


RECORDED = "16d66199e30dfcc282c82c282b802d5ae67ef92044f0cdaf55367683d3f674dc"


def test_a_photo_that_cannot_be_read_has_no_size_until_it_can(tmp_path: Path) -> None:
    with CatalogueWriter(tmp_path / "c", Task(), name="c", source={}, settings={}) as writer:
        writer.add("train", {"id": "a", "images": ["images/a.png", writer.add_image(b"no picture", ".png")], "title": "x"})
    split = Catalogue(tmp_path / "c").split("train")
    assert split.has_sizes and sizes_of(split) == [[(0, 0), (0, 0)]]
    Image.new("RGB", (30, 20)).save(tmp_path / "c" / "images" / "a.png")
    assert sizes_of(split) == [[(30, 20), (0, 0)]]


def test_a_column_of_the_users_that_has_the_name_stays_theirs(tmp_path: Path) -> None:
    extra = {SIZES: pa.string()}
    with CatalogueWriter(tmp_path / "c", Task(), name="c", source={}, settings={}, extra=extra) as writer:
        writer.add("train", {"id": "a", "images": [], "title": "x", SIZES: "S, M, L"})
    split = Catalogue(tmp_path / "c").split("train")
    assert split[0][SIZES] == "S, M, L" and not split.has_sizes and sizes_of(split) == [[]]


def test_a_split_as_a_table_has_its_rows_and_absolute_paths(small_catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_catalogue.parent)
    catalogue = Catalogue(small_catalogue.name)
    frame = catalogue.to_pandas("train")
    assert list(frame.columns) == ["id", "images", "title", "category3_code", "full_price"]
    rows = list(catalogue.split("train"))
    assert frame["id"].tolist() == [row["id"] for row in rows] and frame["full_price"].dtype == "float64"
    assert frame["full_price"].isna().tolist() == [row["full_price"] is None for row in rows]
    assert frame["images"].tolist() == [[str(Path(path).resolve()) for path in row["images"]] for row in rows]
    assert all(Path(path).is_absolute() and Path(path).is_file() for paths in frame["images"] for path in paths)


def test_all_splits_as_a_table_say_which_they_are_of(small_catalogue: Path) -> None:
    frame = Catalogue(small_catalogue).to_pandas()
    assert frame.groupby("split", sort=False).size().to_dict() == {"train": 12, "validation": 3, "test": 4}
    assert frame.columns[0] == "split" and frame["id"].is_unique
    with pytest.raises(UserError, match="no split 'other'"):
        Catalogue(small_catalogue).to_pandas("other")
