"""What an owner asks of rows: products, a row a photo, filters, joins, the first of several columns, patterns."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.ingest.__main__ import main
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from mlx_phi3v.catalogue import PRODUCT, Catalogue
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.tables import write_cells as write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(12):
        (tmp_path / f"p{k}.jpg").write_bytes(photo_bytes(k))
    return tmp_path


def take(source: Path, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The catalogue's information and its rows in the source's order."""
    output = source.with_name("out")
    info = ingest(IngestConfig(str(source), output, **({"processes": 1, "validation": 0.0} | settings)))
    catalogue = Catalogue(output)
    rows = [{**row, "split": name} for name in info["splits"] for row in catalogue.split(name)]
    return info, sorted(rows, key=lambda row: row["id"])


def values(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_continuation_rows_are_filled_from_their_products_first_row(folder: Path) -> None:
    path = write(
        folder / "s.csv",
        "Handle|Title|Type|Price|Image",
        "mug|Blue mug|Mugs|14.50|p0.jpg",
        "tray|Oak tray|Trays|39|p1.jpg",
        "mug|||18|p2.jpg",
        "mug||||p3.jpg",
        "tray||||",
        "|No product||5|p4.jpg",
        "|||6|p5.jpg",
    )
    info, rows = take(path, field=("title=Title", "category=Type:category", "price=Price:number"))
    assert values(rows, "title", "category", "price") == [
        ("Blue mug", "Mugs", 14.5),
        ("Oak tray", "Trays", 39.0),
        ("Blue mug", "Mugs", 18.0),
        ("Blue mug", "Mugs", 14.5),
        ("No product", None, 5.0),
        (None, None, 6.0),
    ]
    assert [row[PRODUCT] for row in rows] == ["0000001", "0000002", "0000001", "0000001", "0000006", "0000007"]
    assert info["counts"]["rejected"] == {"picture_missing_in_row": 1}


def test_the_columns_of_one_field_are_filled_together_or_not_at_all(folder: Path) -> None:
    path = write(
        folder / "s.csv",
        "item_group_id|title|sale_price|price|image_link",
        "S|Shelf|15|20|p0.jpg",
        "S|Wide shelf||25|p1.jpg",
        "S|||  |p2.jpg",
    )
    _, rows = take(path)
    assert values(rows, "title", "price") == [("Shelf", 15.0), ("Wide shelf", 25.0), ("Shelf", 15.0)]


def test_a_product_may_be_named_by_its_own_rows_key(folder: Path) -> None:
    path = write(
        folder / "s.csv",
        "ID|SKU|Parent|Name|Categories|Regular price|Images|Tags",
        "7|CAP||Cap|Hats|20|p0.jpg|",
        "8|CAP-R|CAP|Cap red|||p1.jpg|",
        "9||id:7|Cap blue||22|p2.jpg|",
        "10|BAG||Bag|Bags|30|p3.jpg|",
    )
    _, rows = take(path)
    assert values(rows, "title", "category", "price") == [
        *(("Cap", "Hats", 20.0), ("Cap red", "Hats", 20.0), ("Cap blue", "Hats", 22.0), ("Bag", "Bags", 30.0)),
    ]
    assert [row[PRODUCT] for row in rows] == ["0000001"] * 3 + ["0000004"]


def test_photos_rows_makes_a_row_of_each_photo_and_keeps_a_product_in_one_split(folder: Path) -> None:
    lines = [f"Clock {k}|{k + 5}|p{2 * k}.jpg|p{2 * k + 1}.jpg|" for k in range(6)]
    path = write(folder / "s.csv", "TITLE|PRICE|IMAGE1|IMAGE2|IMAGE3", *lines)
    settings: dict[str, Any] = {"field": ("title=TITLE", "price=PRICE:number"), "image": ["IMAGE1", "IMAGE2", "IMAGE3"]}
    info, rows = take(path, **settings, photos="rows", validation=0.4)
    assert info["counts"]["kept"] == 12 and [len(row["images"]) for row in rows] == [1] * 12
    assert values(rows, "title") == [(f"Clock {k // 2}",) for k in range(12)]
    products: dict[str, set[str]] = {}
    for row in rows:
        products.setdefault(row[PRODUCT], set()).add(row["split"])
    assert len(products) == 6 and all(len(splits) == 1 for splits in products.values())
    assert {row["split"] for row in rows} == {"train", "validation"}


def test_photos_first_and_all(folder: Path) -> None:
    path = write(folder / "s.csv", "title|image", "Clock|p0.jpg,p1.jpg,p2.jpg", "Vase|p3.jpg,p4.jpg", "Cup|p5.jpg")
    info, rows = take(path, photos="first")
    assert [len(row["images"]) for row in rows] == [1, 1, 1] and info["counts"]["pictures_left_out"] == 3
    path = path.rename(folder / "again.csv")
    (folder / "out").rename(folder / "first")
    info, rows = take(path, photos="all")
    assert [len(row["images"]) for row in rows] == [2, 2]
    assert info["counts"]["rejected"] == {"too_few_pictures": 1}
    assert info["task"]["prompt"].count("<|image_") == 2


def test_photos_rows_with_a_prompt_of_two_photos_is_one_sentence(folder: Path) -> None:
    path = write(folder / "s.csv", "title|image", "Clock|p0.jpg,p1.jpg")
    prompt = "<|user|>\n<|image_1|><|image_2|>?<|end|><|assistant|>\n"
    with pytest.raises(UserError, match="--photos rows makes a row of each photo, but the prompt shows 2"):
        take(path, photos="rows", prompt=prompt)


def test_a_filter_and_the_first_of_several_columns(folder: Path) -> None:
    path = write(
        folder / "s.csv",
        "title|Sale price|Regular price|Published|image",
        "Belt|15|20|1|p0.jpg",
        "Cap||18|1|p1.jpg",
        "Scarf||25|0|p2.jpg",
        "Sock|||1|p3.jpg",
    )
    info, rows = take(path, field=("title=title", "price=Sale price|Regular price:number:USD"), where=["Published == 1"])
    assert values(rows, "title", "price") == [("Belt", 15.0), ("Cap", 18.0), ("Sock", None)]
    assert info["counts"]["rejected"] == {"left_out_by_where": 1}


def test_the_step_of_a_path_and_its_separator(folder: Path) -> None:
    path = write(folder / "s.csv", "title|path|image", "Shelf|Home > Shelves > Pine|p0.jpg", "Cup|Kitchen|p1.jpg")
    fields = {
        "last": {"column": "path", "step": -1, "kind": "category"},
        "second": {"column": "path", "step": 2, "separator": " > "},
    }
    _, rows = take(path, fields=fields)
    assert values(rows, "last", "second", "source_path" if "source_path" in rows[0] else "path") == [
        ("Pine", "Shelves", "Home > Shelves > Pine"),
        ("Kitchen", None, "Kitchen"),
    ]


def test_two_tables_are_joined_by_their_key(folder: Path) -> None:
    write(folder / "photos.csv", "product_id|image|title", "1|p0.jpg|other", "1|p1.jpg|other", "3|p2.jpg|", "9|p3.jpg|")
    path = write(folder / "s.csv", "id|title", "1|Clock", "2|Vase", "3|Cup")
    info, rows = take(path, join=folder / "photos.csv", on="id=product_id", photos="rows")
    assert values(rows, "title") == [("Clock",), ("Clock",), ("Cup",)]
    assert info["counts"]["rejected"] == {"picture_missing_in_row": 1}
    assert [row["photos.title"] for row in rows] == ["other", "other", None]


def test_a_join_without_its_key_is_one_sentence(folder: Path) -> None:
    path = write(folder / "s.csv", "id|title|image", "1|Clock|p0.jpg")
    with pytest.raises(UserError, match="--join needs --on too"):
        main([str(path), "-o", str(folder / "out"), "--join", str(path)])
    with pytest.raises(UserError, match=r"s.csv has no column 'sku'|the source has no column 'sku'"):
        take(path, join=path, on="sku")


@pytest.mark.parametrize("pattern", ["images/{id}.jpg", "images/{ID}.jpg", "images/{id:.1}{id:.1}.jpg"])
def test_a_picture_named_by_another_column(pattern: str, folder: Path) -> None:
    (folder / "images").mkdir()
    for name in ("1", "2", "11", "22"):
        (folder / "images" / f"{name}.jpg").write_bytes(photo_bytes(int(name)))
    path = write(folder / "s.csv", "id|title", "1|Clock", "2|Vase")
    info, _ = take(path, image=pattern)
    assert info["counts"]["kept"] == 2


def test_a_pattern_of_an_unknown_column_is_one_sentence(folder: Path) -> None:
    path = write(folder / "s.csv", "id|title", "1|Clock")
    with pytest.raises(UserError, match="no column 'idd'; did you mean 'id'"):
        take(path, image="{idd}.jpg")
    with pytest.raises(UserError, match="a brace that names no column"):
        take(path, image="{id}/{}.jpg")


def test_a_limit_reads_only_so_many_rows(folder: Path) -> None:
    path = write(folder / "s.csv", "title|image", *(f"Clock {k}|p{k}.jpg" for k in range(9)))
    info, _ = take(path, limit=4)
    assert info["counts"]["read"] == 4


def test_a_table_without_a_known_picture_column_names_those_that_look_like_one(folder: Path) -> None:
    path = write(
        folder / "s.csv",
        "title|hero|web|page",
        *(f"C|p{k}.jpg|https://img.x.example/{k}|https://x.example/{k}" for k in range(3)),
    )
    with pytest.raises(UserError) as caught:
        take(path)
    assert str(caught.value).endswith("give --image COLUMN (hero, web look like it), or --no-images to learn from text alone")
    with pytest.raises(UserError, match="contradict each other"):
        main([str(path), "-o", str(folder / "out"), "--no-images", "--image", "hero"])
    info, _ = take(path, images=False)
    assert info["counts"]["pictures"] == 0 and "<|image_1|>" not in info["task"]["prompt"]


def test_a_table_whose_columns_are_all_fields_has_no_pictures_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info, _ = take(write(folder / "s.csv", "title|price", "Clock|5", "Lamp|7"))
    assert info["counts"]["kept"] == 2 and "the catalogue is text alone" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no column of .* is known to hold pictures"):
        take(write(folder / "t.csv", "title|price|sku", "Clock|5|c"), preset="none", fields={"title": {"column": "title"}})


def test_a_table_of_unknown_names_says_which_to_learn(folder: Path) -> None:
    path = write(folder / "s.csv", "a|b", "1|p0.jpg")
    with pytest.raises(UserError, match=r"has the columns a, b; say which to learn, for instance --field title=a:text"):
        take(path)


def test_columns_with_a_colon_or_a_bar_in_their_name(folder: Path) -> None:
    path = write(folder / "s.csv", "Meta: brand|a:b|image", "Acme|x|p0.jpg")
    _, rows = take(path, field=("brand=Meta: brand", "other=a:b:category"))
    assert values(rows, "brand", "other") == [("Acme", "x")]


def test_one_photo_at_many_products_is_left_out_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"Name{k} of{k}|Kind {k % 2}|{k}|p{k if k < 5 else 11}.jpg" for k in range(10)]
    path = write(folder / "s.csv", "title|category|price|image", *lines)
    info, rows = take(path)
    assert len(rows) == 5 and info["counts"]["rejected"] == {"photo_of_many_products": 5}
    assert [(item["rows"], item["answers"]) for item in info["shared_photos"]["photos"]] == [(5, 5)]
    assert len(list((folder / "out" / "images").glob("*/*"))) == 5
    rejected = list(csv.DictReader((folder / "out" / "rejected.csv").open()))
    assert [row["row"] for row in rejected] == ["6", "7", "8", "9", "10"]
    assert main([str(path), "-o", str(folder / "kept"), "--processes", "1", "--keep-shared-photos"]) == 0
    assert "1 photo is at 5 rows with 5 different answers" in capsys.readouterr().out
    assert Catalogue(folder / "kept").info["counts"]["kept"] == 10


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("title|category|image", "Blue work shirt {k}|Shirts|p0.jpg"),  # sizes of one product
        ("title|price|image", "Shirt|{k}|p0.jpg"),  # their prices
        ("handle|title|category|image", "shirt|Name{k}|Kind {k}|p0.jpg"),  # one product, named by its group
    ],
)
def test_variants_of_one_product_may_share_its_photo(header: str, line: str, folder: Path) -> None:
    path = write(folder / "s.csv", header, *(line.format(k=k) for k in range(6)))
    info, _ = take(path)
    assert info["counts"]["kept"] == 6 and info["shared_photos"]["photos"] == []


def test_a_product_is_stored_in_each_row_and_leaves_the_fingerprint_alone(folder: Path) -> None:
    path = write(
        folder / "s.csv", "title|sku|image", "Clock|A|p0.jpg", "Clock again|A|p1.jpg", "Vase|B|p2.jpg", "Same|C|p2.jpg"
    )
    info, rows = take(path, code="sku")
    assert [row[PRODUCT] for row in rows] == ["0000001", "0000001", "0000003", "0000003"]
    assert PRODUCT not in info["schema"]
    # As the version before the column hashed this source.
    assert info["fingerprint"] == FINGERPRINT


FINGERPRINT = "69fdbd136d808d3f0a1a09231fd5089938ed4e4e7351328296714d6d990e9522"


def test_heic_is_stored_as_png_so_that_training_needs_no_further_package(folder: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    from PIL import Image

    Image.open(folder / "p0.jpg").save(folder / "IMG_1.HEIC", "HEIF", quality=90)
    path = write(folder / "s.csv", "title|image", "Clock|IMG_1.HEIC")
    _, rows = take(path)
    assert rows[0]["images"][0].endswith(".png")


def test_yaml_says_the_same_as_flags(folder: Path) -> None:
    path = write(folder / "s.csv", "Name|Sale|Regular|On|image", "Belt||20|1|p0.jpg", "Cap|9|18|0|p1.jpg")
    keys = {
        "fields": {"title": {"column": "name"}, "price": {"columns": ["Sale", "Regular"], "kind": "number"}},
        "image": "image",
        "where": {"On": 1},
        "photos": "first",
    }
    (folder / "m.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
    assert main([str(path), "-o", str(folder / "out"), "--config", str(folder / "m.yaml"), "--processes", "1"]) == 0
    catalogue = Catalogue(folder / "out")
    assert [catalogue.task.answer(row) for row in catalogue.split("train")] == ["Title: Belt, Price: 20.0"]
