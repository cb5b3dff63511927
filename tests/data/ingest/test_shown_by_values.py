"""What the values of a field show of all of them: JSON strings, prices without tax, sales that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.ingest.__main__ import main
from mlx_phi3v.catalogue import Catalogue
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.tables import write_cells


def read(folder: Path, *lines: str, flags: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a table whose cells are apart by `|`, in its order; the photos are p0.jpg and so on."""
    for k in range(len(lines)):
        (folder / f"p{k}.jpg").write_bytes(photo_bytes(k))
    path = write_cells(folder / "t.csv", *lines)
    assert main([str(path), "-o", str(folder / "out"), "--processes", "1", "--validation", "0", *flags]) == 0
    return sorted(Catalogue(folder / "out").split("train")[:], key=lambda row: str(row["id"]))


def test_quotes_of_json_strings_are_no_part_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(tmp_path, "title|price|image", r'"Bag \"L\""|"12.50"|p0.jpg', '"Hat"|"9"|p1.jpg')
    assert [(row["title"], row["price"]) for row in rows] == [('Bag "L"', 12.5), ("Hat", 9.0)]
    assert "the values of title are JSON strings" in capsys.readouterr().err


def test_quotes_that_some_titles_have_stay(tmp_path: Path) -> None:
    rows = read(tmp_path, "title|image", '"Imagine" poster|p0.jpg', '"Love"|p1.jpg', "Plain|p2.jpg")
    assert [row["title"] for row in rows] == ['"Imagine" poster', '"Love"', "Plain"]


def test_prices_that_all_are_without_tax_are_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(tmp_path, "title|price|image", "Bag|12,50 € zzgl. MwSt.|p0.jpg", "Hat|9,00 € zzgl. MwSt.|p1.jpg")
    assert [row["price"] for row in rows] == [12.5, 9.0]
    assert "price is without tax, as its values say" in capsys.readouterr().err


def test_a_price_without_tax_among_others_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(tmp_path, "title|price|image", "Bag|12,50 € zzgl. MwSt.|p0.jpg", "Hat|9,00 €|p1.jpg")
    assert [row["price"] for row in rows] == [None, 9.0]
    assert "price_without_tax 1" in capsys.readouterr().out


def test_a_sale_price_of_0_beside_a_regular_one_is_no_sale(tmp_path: Path) -> None:
    rows = read(tmp_path, "title|sale price|regular price|image", "Belt|0.00|20|p0.jpg", "Cap|15|18|p1.jpg", "Gift|$0|0|p2.jpg")
    assert [row["price"] for row in rows] == [20.0, 15.0, 0.0]


@pytest.mark.parametrize(("dates", "said"), [("2015-01-01/2015-01-31", True), ("", False)])
def test_dates_of_sales_are_said_not_to_be_looked_at(
    dates: str, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, "title|sale price|regular price|sale dates|image", f"Belt|15|20|{dates}|p0.jpg", "Cap|||  |p1.jpg")
    assert ("wherever it has a price, whatever sale dates says" in capsys.readouterr().err) is said


@pytest.mark.parametrize("title", ["Gr\ufffd\ufffde L", "GrÃ¶ÃŸe L", "MAÇÃ E PÊRA"])
def test_lost_letters_are_said(title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, "title|image", f"{title}|p0.jpg", "Hat|p1.jpg")
    assert ("letters of title were lost" in capsys.readouterr().err) is ("Gr" in title)


def test_the_number_of_pieces_that_a_price_is_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, "title|price|Preiseinheit|image", "Screw|12.50|100|p0.jpg", "Hammer|9|1|p1.jpg")
    assert "price is for as many pieces as Preiseinheit says" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    read(tmp_path / "b", "title|price|Preiseinheit|image", "Saw|12.50|1|p0.jpg")
    assert "pieces" not in capsys.readouterr().err
