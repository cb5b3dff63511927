"""The encoding of a text file is known or asked for, never wrong in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.ingest.reading.encodings import find_encoding
from data.ingest.tables import open_table
from mlx_phi3v.errors import UserError

TEXTS = {
    "de": ("cp1252", "Name;Preis\nGrüner Stuhl;1\nWeißer Tisch;2\nRegal Höhe 2 m²;3 €\n"),
    "fr": ("cp1252", "Nom;Prix\nÉcharpe côtelée;12 €\nManteau d’hiver très léger;9\nBonnet à pompon;1\n"),
    "es": ("cp1252", "Título;Precio\nZapatillas de niño;25\nPantalón marrón;2\n"),
    "da": ("cp1252", "Navn;Pris\nRød trøje;100\nBlå kjole;2\nÆblegrød;3\n"),
    "pl": ("cp1250", "Nazwa;Cena\nKurtka żółta;120\nCzapka wełniana męska;30\n"),
    "cs": ("cp1250", "Název;Cena\nDětská bunda černá;120\nPříliš žluťoučký kůň;3\n"),
    "hu": ("cp1250", "Név;Ár\nSzürke őszi kabát;1\nFűzöld cipő;2\n"),
    "tr": ("cp1254", "Ad;Fiyat\nKışlık ceket gri;120\nYün şapka yeşil;30\n"),
    "ru": ("cp1251", "Название;Цена\nЗимняя куртка;1200\nШапка вязаная;300\n"),
    "ru, koi8": ("koi8_r", "Название;Цена\nЗимняя куртка;1200\nШапка вязаная;300\n"),
    "el": ("cp1253", "Όνομα;Τιμή\nΚόκκινο παλτό;12\n"),
    "ja": ("cp932", "商品名;価格\n赤いセーター;1200\n青い帽子;300\n"),
    "zh": ("gb18030", "名称;价格\n红色毛衣;120\n蓝色帽子;30\n"),
    "ko": ("cp949", "이름;가격\n빨간 스웨터;1200\n파란 모자;300\n"),
    "fr, mac": ("mac_roman", "Nom;Prix\nÉcharpe rayée;12\nManteau léger à capuche;15\n"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_read_in_the_encoding_of_its_letters(language: str, tmp_path: Path) -> None:
    encoding, text = TEXTS[language]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    found, note = find_encoding(path, None)
    assert path.read_bytes().decode(found) == text
    assert found in note


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_known_by_its_bytes(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("sku,title\n1,Grüner Stuhl 🧣\n".encode(encoding))
    assert [row for _, row in open_table(path).rows()] == [{"sku": "1", "title": "Grüner Stuhl 🧣"}]


@pytest.mark.parametrize(
    "data",
    [
        "שם,מחיר\nכובע כחול,12\n".encode("cp1255"),
        "Nom;Prix\nÉcharpe rayée;12\n".encode("cp850"),
        "Ad;Fiyat\nKışlık;1\nрусский;2\n".encode().replace("ş".encode(), b"\xfe"),
        b"a;b\nx\x81\xff\xd6;1\n",
    ],
)
def test_what_cannot_be_known_is_asked_for_with_its_readings(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(UserError, match="--encoding") as error:
        find_encoding(tmp_path / "t.csv", None)
    assert " as cp1252" in str(error.value) or " as " in str(error.value)


def test_chinese_that_is_too_short_to_be_known_is_shown_in_its_own_encodings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("宝贝标题,宝贝类目\n真皮女靴 冬季新款,女鞋\n".encode("gb18030"))
    with pytest.raises(UserError, match=r"宝贝标题.* as gb18030"):
        find_encoding(path, None)


def test_a_few_broken_lines_of_a_utf8_file_are_rejected_alone(tmp_path: Path) -> None:
    lines = [f"{k},Grün {k}\n".encode() for k in range(100)]
    (tmp_path / "t.csv").write_bytes(b"sku,title\n" + b"".join(lines[:50]) + b"50,Caf\xe9\n" + b"".join(lines[50:]))
    table = open_table(tmp_path / "t.csv")
    rows = list(table.rows())
    assert len(rows) == 101 and [(line, row) for line, row in rows if isinstance(row, str)] == [(52, "text_not_utf8")]


def test_utf8_said_to_be_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sku,title\n1,Grün\n", encoding="utf-8")
    with pytest.raises(UserError, match="is UTF-8 text, not cp1252"):
        find_encoding(tmp_path / "t.csv", "cp1252")
    assert find_encoding(tmp_path / "t.csv", "UTF8") == ("utf-8-sig", "")
    (tmp_path / "t.csv").write_text("sku,title\n1,Grün\n", encoding="cp1252")
    assert find_encoding(tmp_path / "t.csv", "cp1252")[0] == "cp1252"
