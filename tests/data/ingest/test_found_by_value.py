"""What no name says is found by values: photos, files named after a row's value, a price's currency in its column's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from data.ingest.__main__ import main
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.tables import write_cells as write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(6):
        (tmp_path / f"p{k}.jpg").write_bytes(photo_bytes(k))
    return tmp_path


def take(source: Path, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The catalogue's information and its rows in the source's order."""
    given = IngestConfig(str(source), source.with_name(f"out-{source.stem}"), processes=1, validation=0.0)
    info = ingest(dataclasses.replace(given, **settings))
    return info, sorted(Catalogue(given.output).split("train")[:], key=lambda row: str(row["id"]))


def test_the_one_column_of_pictures_is_taken_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder / "s.csv", "title|front view|brand_logo", *(f"Clock {k}|p{k}.jpg|p5.jpg" for k in range(3)))
    info, _ = take(path)
    assert (info["counts"]["kept"], info["counts"]["pictures"]) == (3, 3)
    assert "the photos are taken from front view" in capsys.readouterr().err


def test_a_numbered_series_of_columns_is_taken_in_its_order(folder: Path) -> None:
    path = write(folder / "s.csv", "name|Foto10|Foto2|Foto1", "Clock|p3.jpg|p2.jpg|p1.jpg", "Vase||p5.jpg|p4.jpg")
    info, rows = take(path)
    assert [len(row["images"]) for row in rows] == [1, 1] and info["counts"]["pictures_left_out"] == 3
    assert Path(rows[0]["images"][0]).read_bytes() == photo_bytes(1)


def test_a_choice_between_columns_and_preset_none_are_left_to_the_user(folder: Path) -> None:
    path = write(folder / "s.csv", "title|front|side", *(f"Clock {k}|p{k}.jpg|p{k + 2}.jpg" for k in range(3)))
    with pytest.raises(UserError, match=r"give --image COLUMN \(front, side look like it\)"):
        take(path)
    path = write(folder / "t.csv", "title|front|note", "Clock|p1.jpg|x", "Vase|p2.jpg|y")
    with pytest.raises(UserError, match=r"give --image COLUMN \(front looks like one\)"):
        take(path, preset="none")


@pytest.mark.parametrize("zeros", [True, False])
def test_photos_named_after_a_value_are_found_also_in_folders_by_prefix(zeros: bool, tmp_path: Path) -> None:
    numbers = ["0108775015", "0108775044", "0110065001"]
    for k, number in enumerate(numbers):
        (tmp_path / "images" / number[:3]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / number[:3] / f"{number}.jpg").write_bytes(photo_bytes(k))
    rows = [f"{n if zeros else int(n)}|9|Top {k}" for k, n in enumerate([*numbers, "0999999999"])]
    info, _ = take(write(tmp_path / "articles.csv", "article_id|size|prod_name", *rows))
    assert info["counts"]["kept"] == 3 and info["counts"]["rejected"] == {"picture_missing": 1}
    info, _ = take(write(tmp_path / "again.csv", "article_id|size|prod_name", *rows), image_root=str(tmp_path / "images"))
    assert info["counts"]["kept"] == 3


@pytest.mark.parametrize(
    ("file", "pattern"), [("{}_1.jpg", "{sku}_1.jpg"), ("{}-front.jpg", "{sku}-front.jpg"), ("{}.JPG", "{sku}.JPG")]
)
def test_the_first_of_several_photos_and_names_in_another_case_are_found(
    file: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, sku in enumerate(["ab-1x", "cd-2x", "ef-3x"]):
        (tmp_path / file.format(sku)).write_bytes(photo_bytes(k))
    info, _ = take(write(tmp_path / "s.csv", "sku|title", *(f"{sku}|Clock {sku}" for sku in ("AB-1X", "CD-2X", "EF-3X"))))
    assert info["counts"]["kept"] == 3
    assert f"the photos are the files {pattern}" in capsys.readouterr().err


def test_a_value_that_many_rows_share_names_no_photo(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k in range(3):
        (tmp_path / "images" / f"{k}.jpg").write_bytes(photo_bytes(k))
    path = write(tmp_path / "s.csv", "title|size", *(f"Clock {k}|{k % 3}" for k in range(9)))
    with pytest.raises(UserError, match=r"no column of .* is known to hold pictures"):
        take(path)


@pytest.mark.parametrize(
    ("name", "cell", "amount"),
    [
        ("price (EUR)", "1.250", 1250.0),
        ("Preis (EUR, inkl. MwSt.)", "1.250", 1250.0),
        ("price\n[GBP]", "12.50", 12.5),
        ("price_usd", "12.50", 12.5),
        ("Prix en €", "12,50", 12.5),
        ("Price ($)", "12.50", 12.5),
        ("Listenpreis EUR", "9,90", 9.9),
    ],
)
def test_a_price_is_known_with_its_currency_in_the_name(name: str, cell: str, amount: float, folder: Path) -> None:
    _, rows = take(write(folder / "s.csv", f"title|{name}|image", f"Clock|{cell}|p1.jpg", f"Vase|{cell}|p2.jpg"))
    assert [row["price"] for row in rows] == [amount, amount]


def test_prices_that_excel_shortened_are_read_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder / "s.csv", "title|price|image", "Clock|1,99E+02|p1.jpg", "Vase|89,50|p2.jpg")
    assert main([str(path), "--output", str(folder / "out"), "--processes", "1"]) == 0
    assert "1 values of price are written like 1.99E+02, which may hide cents" in capsys.readouterr().out
    assert sorted(row["price"] for row in Catalogue(folder / "out").split("train")) == [89.5, 199.0]


def test_of_several_columns_of_prices_all_are_named_and_none_is_learned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "article name|price_regular|price_promotional|image"
    _, rows = take(write(folder / "s.csv", head, "Boot|89,95|69,95|p1.jpg", "Shoe|79,95||p2.jpg"))
    assert "price" not in rows[0]
    assert "price_regular, price_promotional look like price" in capsys.readouterr().err


def test_hundredths_inside_objects_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "s.jsonl"
    path.write_text('{"name": "Hat", "image": "p1.jpg", "default_price": {"unit_amount": 1999}}\n')
    assert "price" not in take(path)[1][0]
    assert "default_price.unit_amount looks like prices in hundredths" in capsys.readouterr().err


def test_the_templates_of_shopee_are_read_below_their_lines_of_help(folder: Path) -> None:
    head = ["ps_category|ps_product_name|ps_price|ps_item_cover_image", "Category|Product Name|Price|Cover image"]
    path = write(folder / "s.csv", *head, "Mandatory|Mandatory|Mandatory|Optional", "100|Denim jacket|259000|p1.jpg")
    info, rows = take(path, currency="IDR")
    assert [(row["title"], row["category"], row["price"]) for row in rows] == [("Denim jacket", "100", 259000.0)]
    assert info["counts"]["rejected"] == {"picture_missing": 2}


def test_a_note_beside_a_price_is_no_price(folder: Path) -> None:
    _, rows = take(write(folder / "s.csv", "title|price note|image", "Clock|cheap|p1.jpg", "Vase|dear|p2.jpg"))
    assert "price" not in rows[0]


def test_of_several_columns_each_photo_has_a_row_where_rows_have_fewer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["Oak clock|45|p0.jpg|p1.jpg|p2.jpg", "Brass clock|60|p3.jpg|p4.jpg|", "Paper clock|20|p5.jpg||"]
    path = write(folder / "s.csv", "TITLE|PRICE|IMAGE1|IMAGE2|IMAGE3", *rows)
    image = ["IMAGE1", "IMAGE2", "IMAGE3"]
    fields = ("title=TITLE", "price=PRICE:number:USD")
    info, found = take(path, field=fields, image=image)
    assert [(row["title"], len(row["images"])) for row in found] == [
        *[("Oak clock", 1)] * 3,
        *[("Brass clock", 1)] * 2,
        ("Paper clock", 1),
    ]
    assert info["products"]["products"] == 3 and "each photo has a row" in capsys.readouterr().err
    one = "<|user|>\n<|image_1|>What is this?<|end|><|assistant|>\n"
    again = path.rename(folder / "one.csv")
    assert len(take(again, field=fields, image=image, prompt=one)[1]) == 6
    both = write(folder / "both.csv", "TITLE|PRICE|IMAGE1|IMAGE2", *(row.rpartition("|")[0] for row in rows[:2]))
    assert [len(row["images"]) for row in take(both, field=fields, image=image[:2])[1]] == [2, 2]


def test_a_price_that_is_named_goes_on_to_the_exports_own_price(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["Belt|15|20|p1.jpg|1", "Cap||18|p2.jpg|1", "Scarf||25|p3.jpg|0"]
    path = write(folder / "s.csv", "Name|Sale price|Regular price|Images|Published", *lines)
    fields = ("title=Name", "price=Sale price:number:USD")
    _, rows = take(path, field=fields, image="Images")
    assert [row["price"] for row in rows] == [15.0, 18.0, 25.0]
    assert "read from Regular price where Sale price is blank" in capsys.readouterr().err
    _, rows = take(path.rename(folder / "t.csv"), field=fields, image="Images", preset="none")
    assert [row["price"] for row in rows] == [15.0, None, None]


def test_a_blank_price_is_read_from_the_next_usual_column(folder: Path) -> None:
    path = write(folder / "s.csv", "name|image|discount_price|actual_price", "Fan|p1.jpg|₹1,499|₹2,999", "Lamp|p2.jpg||₹800")
    _, rows = take(path)
    assert [row["price"] for row in rows] == [1499.0, 800.0]


@pytest.mark.parametrize(
    ("cell", "step", "expected"),
    [
        ("Clothing > Belts", -1, "Belts"),
        ("Clothing, Clothing > T-shirts", 1, "Clothing"),
        ("Clothing, Clothing > T-shirts", -1, "T-shirts"),
        ("Default Category/Women,Default Category/Women/Shorts", -1, "Shorts"),
        ('["Clothing >> Lingerie, Sleep >> Shorts"]', 2, "Lingerie, Sleep"),
        ('[["Home", "Lamps"], ["Sale"]]', -1, "Lamps"),
        ('["Home", "Lamps"]', 1, "Home"),
        ("Belts", -1, "Belts"),
    ],
)
def test_a_flag_takes_one_step_of_the_path_in_a_presets_category(cell: str, step: int, expected: str, folder: Path) -> None:
    path = write(folder / "s.csv", "Name!Regular price!Categories!Images".replace("!", "|"), f"Belt|15|{cell}|p1.jpg")
    _, rows = take(path, category_step=step)
    assert [row["category"] for row in rows] == [expected] and rows[0]["price"] == 15.0


def test_a_step_of_nothing_is_one_sentence(folder: Path) -> None:
    path = write(folder / "s.csv", "title|category|image", "Belt|A~B|p1.jpg")
    _, rows = take(path, category_step=1, category_separator="~")
    assert rows[0]["category"] == "A"
    flags = [str(path), "-o", str(folder / "x")]
    with pytest.raises(UserError, match=r"category_step in .* is 0"):
        main([*flags, "--category-step", "0"])
    with pytest.raises(UserError, match="--category-separator needs"):
        main([*flags, "--category-separator", ">"])
