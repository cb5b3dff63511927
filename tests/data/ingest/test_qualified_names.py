"""Columns whose usual names have a tax, a currency, a language or a level beside, and what is said of those that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.ingest.ingest_config import IngestConfig
from data.ingest.plan import make_plan
from data.ingest.qualified_names import priced_columns, qualified_columns
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes

Read = tuple[str | None, str | None, str | None]


def table(folder: Path, header: str, *rows: str) -> Path:
    for k in range(len(rows)):
        (folder / f"p{k}.jpg").write_bytes(photo_bytes(k))
    path = folder / "t.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def columns(path: Path) -> dict[str, str]:
    """The column that each field is read from."""
    return {field.name: field.column for field in make_plan(IngestConfig(str(path), path.parent / "out")).mapping.fields}


HEADERS = {
    "Réf;Désignation;Famille;Prix HT;Prix TTC;Visuel": ("Désignation", "Famille", "Prix TTC"),
    "SKU;Artículo;Familia;Precio IVA incluido;Foto": ("Artículo", "Familia", "Precio IVA incluido"),
    "Codice;Nome articolo;Categoria merceologica;Prezzo al pubblico;Foto": (
        *("Nome articolo", "Categoria merceologica", "Prezzo al pubblico"),
    ),
    "商品コード;商品名;カテゴリー;販売価格（税込）;商品画像": ("商品名", "カテゴリー", "販売価格（税込）"),
    "商品ID;宝贝名称;一级类目;价格（元）;主图": ("宝贝名称", "一级类目", "价格（元）"),
    "Nr;Artikelname;Kategorie Ebene 1;Kategorie Ebene 2;Std. VK Brutto;Bild": (
        "Artikelname",
        "Kategorie Ebene 1",
        "Std. VK Brutto",
    ),
    "sku;categories;name-en_US;name-fr_FR;description-en_US-ecommerce;price-EUR;price-USD;picture": (
        *("name-en_US", "categories", "price-EUR"),
    ),
    "상품코드;상품명;카테고리명;판매가격;대표이미지": ("상품명", "카테고리명", "판매가격"),
    "商品番号;商品名;ジャンル名;販売価格;商品画像URL": ("商品名", "ジャンル名", "販売価格"),
    "Kod;Nazwa towaru;Kategoria;Cena netto;Cena brutto;Zdjęcie": ("Nazwa towaru", "Kategoria", "Cena brutto"),
    "Réf;Libellé produit;Catégorie;Prix de vente TTC;Photo principale": ("Libellé produit", "Catégorie", "Prix de vente TTC"),
    "Код;Наименование товара;Раздел каталога;Розничная цена;Фотография": (
        *("Наименование товара", "Раздел каталога", "Розничная цена"),
    ),
    "Kod;Ürün Adı;Ana Kategori;Satış Fiyatı (KDV Dahil);Resim 1": ("Ürün Adı", "Ana Kategori", "Satış Fiyatı (KDV Dahil)"),
    "id;Name;Product Category/Display Name;Sales Price;Image": ("Name", "Product Category/Display Name", "Sales Price"),
    "title;category;old_price;new_price;image": ("title", "category", "new_price"),
    "Title (DE);description;Category_1;Category_2;Net price;Gross price;photo": ("Title (DE)", "Category_1", "Gross price"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_usual_names_are_found_with_words_beside_them(header: str, tmp_path: Path) -> None:
    width = header.count(";")
    path = table(tmp_path, header, *(";".join(["1,50"] * width + [f"p{k}.jpg"]) for k in range(2)))
    found = columns(path)
    assert (found.get("title") or found.get("name"), found["category"], found["price"]) == HEADERS[header]


def test_of_several_languages_or_currencies_the_first_is_read_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path, "name-en;name-de;price-USD;price-EUR;image", "Shirt;Hemd;5;4;p0.jpg")
    assert columns(path) == {"title": "name-en", "price": "price-USD"}
    said = capsys.readouterr().err
    assert "of name-en, name-de the column name-en is read" in said and "of price-USD, price-EUR the column price-USD" in said


def test_a_price_with_tax_beside_its_name_comes_before_a_list_price(tmp_path: Path) -> None:
    path = table(tmp_path, "Artikelname;Std. VK Netto;Std. VK Brutto;UVP;Bild", "Stuhl;83,19;99,00;120,00;p0.jpg")
    field = next(f for f in make_plan(IngestConfig(str(path), tmp_path / "out")).mapping.fields if f.name == "price")
    assert field.columns == ("Std. VK Brutto", "UVP")


def test_a_price_without_tax_is_never_read_in_place_of_one_with_tax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "Product ID;Image;Name;Reference;Price (tax excl.)"
    assert columns(table(tmp_path, names, "1;p0.jpg;Shirt;r;20"))["price"] == "Price (tax excl.)"
    assert "Price (tax excl.), which is without tax" in capsys.readouterr().err
    path = table(tmp_path, f"{names};Price (tax incl.)", "1;p0.jpg;Shirt;r;20;24")
    field = next(f for f in make_plan(IngestConfig(str(path), tmp_path / "out")).mapping.fields if f.name == "price")
    assert field.columns == ("Price (tax incl.)",)
    assert "price is read from Price (tax incl.), not from Price (tax excl.)" in capsys.readouterr().err


def test_further_levels_of_a_category_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns(table(tmp_path, "title;category_1;category_2;price;image", "Sofa;Home;Living;200;p0.jpg"))
    assert "the category is read from category_1, not from category_2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Price note", "Price tax", "price per kg", "price type"])
def test_other_words_beside_a_price_are_no_price(name: str, tmp_path: Path) -> None:
    assert columns(table(tmp_path, f"title;{name};image", "Shirt;per piece;p0.jpg")) == {"title": "title"}


def test_a_column_that_looks_like_a_field_without_a_usual_name_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path, "Title;Weight;Endkunde;image", "Chair;1,50;19,90 €;p0.jpg", "Bench;2,50;129,00 €;p1.jpg")
    assert columns(path) == {"title": "Title"}
    assert "Endkunde looks like price: --field title=Title:text price=Endkunde:number" in capsys.readouterr().err


def test_the_one_column_that_is_a_price_by_name_and_values_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path, "Title;Purchase price;Endkundenpreis;image", "Chair;9,50;19,90;p0.jpg", "Bench;99,50;129,00;p1.jpg")
    assert columns(path) == {"title": "Title", "price": "Endkundenpreis"}
    assert "price is read from Endkundenpreis, by its name and the values there" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["Purchase price", "Price of shipping", "My price;Your price", "Price text"])
def test_a_price_of_other_things_and_a_choice_between_two_are_left_to_the_user(names: str, tmp_path: Path) -> None:
    cells = ";".join(["on request" if "text" in names else "9,50"] * (names.count(";") + 1))
    assert columns(table(tmp_path, f"Title;{names};image", f"Chair;{cells};p0.jpg")) == {"title": "Title"}


def test_a_rate_of_tax_is_no_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns(table(tmp_path, "title;tax;price_a;image", "Chair;19.00;9,50;p0.jpg", "Bench;7.00;19,50;p1.jpg"))
    said = capsys.readouterr().err
    assert "price_a" in said and "tax" not in said


def test_nothing_is_said_where_nothing_looks_like_a_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns(table(tmp_path, "Title;Weight;Stock;Barcode;image", "Chair;1,50;4;400123;p0.jpg"))
    assert "looks like" not in capsys.readouterr().err


def test_a_table_without_a_usual_name_is_refused_with_a_command_that_fits_it(tmp_path: Path) -> None:
    path = table(tmp_path, "nr;modelname;my prices;image", "1;Oak chair;19.90;p0.jpg", "2;Oak bench;29.90;p1.jpg")
    with pytest.raises(UserError, match="--field title=modelname:text 'price=my prices:number'"):
        columns(path)


def prices(folder: Path, *values: str, **settings: Any) -> list[str | None]:
    path = table(folder, "title;price;image", *(f"Thing {k};{value};p{k}.jpg" for k, value in enumerate(values)))
    return [
        field.decimal
        for field in make_plan(IngestConfig(str(path), folder / "out", **settings)).mapping.fields
        if field.kind == "number"
    ]


def test_a_decimal_comma_that_other_values_show_settles_what_a_dot_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prices(tmp_path, "12.345", "1.299", "899,00", "19,95", "on request") == [","]
    assert "price has a decimal comma" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values", [("1.299", "2.499"), ("899,00", "19,95"), ("1.299", "899,00", "1,250"), ("1.299", "9,50", "9.50")]
)
def test_no_comma_is_taken_without_need_or_where_a_value_contradicts(values: tuple[str, ...], tmp_path: Path) -> None:
    assert prices(tmp_path, *values) == [None]


def test_prices_in_hundredths_are_no_prices_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert columns(table(tmp_path, "title;price_cents;image", "Shirt;1990;p0.jpg", "Hat;990;p1.jpg")) == {"title": "title"}
    assert "price_cents looks like prices in hundredths" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" + "_" * 100_000 + "x", "a" + " " * 100_000 + "(", "a" + "_" * 100_000 + "en!"])
def test_the_name_of_a_column_may_have_any_length(name: str) -> None:
    assert not qualified_columns(["a"], [name], category=True) and not priced_columns(["a"], [name])
