"""A picture's path finds its file as shops, Windows and annotation servers write it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.ingest.ingest_config import IngestConfig
from data.ingest.notes import value_lines
from data.ingest.photo_roots import PhotoRoots
from data.ingest.pipeline import ingest
from tests.helpers.catalogue import random_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("table/images/a.jpg", "table/b b.jpg", "media/w/s/c.jpg", "media/p1.png", "secret/s.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("images/a.jpg", "table/images/a.jpg"),
        ("images\\a.jpg", "table/images/a.jpg"),
        ("/images/a.jpg", "table/images/a.jpg"),
        ("b%20b.jpg", "table/b b.jpg"),
        ("other/a.jpg", None),
        ("/x/y/a.jpg", None),
        ("", None),
        ("/data/upload/3/images/a.jpg", "table/images/a.jpg"),
    ],
)
def test_a_path_below_the_tables_folder(name: str, found: str | None, folder: Path) -> None:
    path = PhotoRoots(folder / "table").find(name)
    assert path == (None if found is None else folder / found)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("w/s/c.jpg", "media/w/s/c.jpg"),
        ("/w/s/c.jpg", "media/w/s/c.jpg"),
        ("media/w/s/c.jpg", "media/w/s/c.jpg"),
        ("/home/else/media/w/s/c.jpg", "media/w/s/c.jpg"),
        ("C:\\shop\\media\\w\\s\\c.jpg", "media/w/s/c.jpg"),
        ("/data/upload/12/a1b2c3d4-p1.png", "media/p1.png"),
        ("/data/local-files/?d=w/s/c.jpg", "media/w/s/c.jpg"),
        ("else/c.jpg", None),
        ("images/a.jpg", "table/images/a.jpg"),
    ],
)
def test_a_path_below_the_folder_that_is_given(name: str, found: str | None, folder: Path) -> None:
    path = PhotoRoots(folder / "table", folder / "media").find(name)
    assert path == (None if found is None else folder / found)


@pytest.mark.parametrize("name", ["../secret/s.jpg", "/../secret/s.jpg", "w/../../secret/s.jpg", "link.jpg"])
def test_a_data_set_from_the_hub_reads_nothing_outside_the_folder_that_is_given(name: str, folder: Path) -> None:
    (folder / "media" / "link.jpg").symlink_to(folder / "secret" / "s.jpg")
    roots = PhotoRoots(None, folder / "media")
    assert roots.find(name) is None and roots.find(str(folder / "secret" / "s.jpg")) is None
    assert roots.find("w/s/c.jpg") == folder / "media" / "w" / "s" / "c.jpg"
    assert not PhotoRoots(None).any


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("IMAGES/Grün.PNG", "Images/gr\u00fcn.png"),
        ("images/gru\u0308n.png", "Images/gr\u00fcn.png"),
        ("Images/grün", "Images/gr\u00fcn.png"),
        ("Images/grün.jpg", "Images/gr\u00fcn.png"),
        ("Images/grün.png?width=100&v=2", "Images/gr\u00fcn.png"),
        ("Images/no. 5", "Images/No. 5.jpg"),
        ("Images/two.jpg", None),
        ("Images/grün.pdf", None),
        ("Images/notes", None),
        ("../secret/s.jpeg", None),
    ],
)
def test_a_name_that_differs_in_case_unicode_form_or_suffix_is_found_where_one_file_fits(
    name: str, found: str | None, tmp_path: Path
) -> None:
    for file in (
        "t/Images/gr\u00fcn.png",
        "t/Images/No. 5.jpg",
        "t/Images/two.png",
        "t/Images/two.webp",
        "t/Images/notes.txt",
        "secret/s.jpg",
    ):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    path_found = PhotoRoots(tmp_path / "t").find(name)
    assert (path_found is None) if found is None else (path_found is not None and path_found.samefile(tmp_path / "t" / found))


def test_a_file_that_comes_later_is_seen(tmp_path: Path) -> None:
    roots = PhotoRoots(tmp_path)
    assert roots.find("a.JPG") is None
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"x")
    assert roots.find("SUB/a") is not None


def test_photos_that_were_found_under_near_names_are_counted(tmp_path: Path) -> None:
    for i in range(4):
        random_picture(40, 30, i).save(tmp_path / f"photo {i}.png")
    rows = [f"hat {i},{name},{i + 5}" for i, name in enumerate(["photo 0.png", "PHOTO 1.png", "photo 2.jpg", "photo 3.png"])]
    (tmp_path / "s.csv").write_text("\n".join(["title,image,price", *rows]))
    info = ingest(IngestConfig(str(tmp_path / "s.csv"), tmp_path / "out", processes=1, json=True))
    assert info["counts"]["kept"] == 4
    said = list(value_lines(info["values"], 4))
    assert said == ["2 photos were found under names that differ in case, Unicode form or suffix alone"]
