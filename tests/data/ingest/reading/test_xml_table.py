"""Any XML with an element for each row is a table; entities, DTDs and the network are never followed."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from data.ingest.row import RowError
from data.ingest.tables import open_table
from mlx_phi3v.errors import UserError
from tests.helpers.tables import column_values

GOOGLE = """<?xml version="1.0"?>
<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title><link>https://a.example</link>
<item><g:id>1</g:id><title>Pot &amp; lid</title><g:price>12.50 EUR</g:price><link>https://a.example/1</link>
<g:image_link>https://a.example/1.jpg</g:image_link><g:additional_image_link>https://a.example/1b.jpg</g:additional_image_link>
<g:additional_image_link>https://a.example/1c.jpg</g:additional_image_link>
<g:shipping><g:country>DE</g:country><g:price>4.90 EUR</g:price></g:shipping></item>
<item><g:id>2</g:id><title><![CDATA[Pan <b>big</b>]]></title><g:price>9.00 EUR</g:price>
<g:image_link>https://a.example/2.jpg</g:image_link></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>
<entry><g:id>1</g:id><title>Pot</title><g:title>Big pot</g:title><link href="https://a.example/1"/></entry>
<entry><g:id>2</g:id><title>Pan</title><link href="https://a.example/2"/></entry></feed>"""
YANDEX = """<yml_catalog><shop><categories><category id="1">Pots</category><category id="2">Pans</category></categories><offers>
<offer id="7" available="true"><name>Pot</name><price currency="RUB">1200</price>
<picture>a.jpg</picture><picture>b.jpg</picture>
<param name="Colour">red</param></offer>
<offer id="8" available="false"><name>Pan</name><price currency="RUB">900</price>
<picture>c.jpg</picture></offer>
</offers></shop></yml_catalog>"""


def rows_of(folder: Path, text: str, name: str = "t.xml") -> list[Any]:
    (folder / name).write_text(text, encoding="utf-8")
    return [row for _, row in open_table(folder / name).rows()]


def test_a_google_merchant_feed(tmp_path: Path) -> None:
    assert rows_of(tmp_path, GOOGLE) == [
        {
            "id": "1",
            "title": "Pot & lid",
            "price": "12.50 EUR",
            "link": "https://a.example/1",
            "image_link": "https://a.example/1.jpg",
            "additional_image_link": ["https://a.example/1b.jpg", "https://a.example/1c.jpg"],
            "shipping": {"country": "DE", "price": "4.90 EUR"},
        },
        {"id": "2", "title": "Pan <b>big</b>", "price": "9.00 EUR", "image_link": "https://a.example/2.jpg"},
    ]
    table = open_table(tmp_path / "t.xml")
    assert table.count == 2 and {"id", "title", "price", "shipping"} <= set(table.columns)
    assert [line for line, _ in table.rows()] == [3, 7]


def test_an_atom_feed_and_names_of_two_namespaces(tmp_path: Path) -> None:
    assert rows_of(tmp_path, ATOM, "feed") == [
        {"id": "1", "title": "Pot", "g_title": "Big pot", "link": "https://a.example/1"},
        {"id": "2", "title": "Pan", "link": "https://a.example/2"},
    ]


def test_the_element_that_dominates_is_the_row(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, YANDEX)
    assert first == {
        "id": "7", "available": "true", "name": "Pot", "price": "1200", "price_currency": "RUB", "picture": ["a.jpg", "b.jpg"],
        "param": "red", "param_name": "Colour",
    }  # fmt: skip
    assert second["picture"] == "c.jpg"


def test_rows_given_by_attributes_and_one_row_alone(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '<rows><row a="1" b="x"/><row a="2"/></rows>') == [{"a": "1", "b": "x"}, {"a": "2"}]
    assert rows_of(tmp_path, "<rss><channel><item><title>Fork</title></item></channel></rss>") == [{"title": "Fork"}]


def test_of_a_text_in_several_languages_one_is_the_column(tmp_path: Path) -> None:
    names = '<name xml:lang="de">Topf</name><name xml:lang="x-default">Pot</name><name xml:lang="fr">Pot à eau</name>'
    item = f"<item>{names}<tag>a</tag><tag>b</tag></item>"
    row, _ = rows_of(tmp_path, f"<rss><channel>{item}{item}</channel></rss>")
    assert row == {"name": "Pot", "name_lang": "x-default", "name_de": "Topf", "name_fr": "Pot à eau", "tag": ["a", "b"]}


def test_of_languages_that_are_elements_the_first_is_the_text(tmp_path: Path) -> None:
    path = tmp_path / "p.xml"
    name = '<name><language id="1">Belt</language><language id="2">Ceinture</language></name>'
    path.write_text(f"<products>{f'<product><id>1</id>{name}</product>' * 2}</products>")
    assert column_values(open_table(path), "name") == ["Belt", "Belt"]


def test_an_element_of_very_many_attributes_costs_its_own_row_alone(tmp_path: Path) -> None:
    """libxml2 looks each up among all: 100,000 took a minute."""
    wide = " ".join(f'a{i}="1"' for i in range(1001))
    items = f'<item t="Pot"/><item {wide}/><item><t {wide}>Pan</t></item><item t="Lid"/>'
    rows = rows_of(tmp_path, f"<items>{items}</items>")
    assert rows[0] == {"t": "Pot"} and rows[3] == {"t": "Lid"}
    assert rows[1:3] == [RowError("row_unreadable", "an element has 1,001 attributes")] * 2


def test_a_compressed_feed(tmp_path: Path) -> None:
    (tmp_path / "t.xml.gz").write_bytes(gzip.compress(GOOGLE.encode()))
    assert open_table(tmp_path / "t.xml.gz").count == 2


ENTITY = "<!DOCTYPE r [<!ENTITY {name} {value}>]><r><item><t>{use}</t></item><item><t>b</t></item></r>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTITY.format(name="x", value='SYSTEM "file:///etc/passwd"', use="&x;"), "declares entities"),
        (ENTITY.format(name="% x", value='SYSTEM "http://a.example/x"', use="a"), "declares entities"),
        ('<!DOCTYPE r [<!ENTITY a "xxxx"><!ENTITY b "&a;&a;">]><r><item><t>&b;</t></item></r>', "declares entities"),
        ("<r><item><t>a</t></item><item>", "not well-formed"),
        ("<r><item><t>a & b</t></item></r>", "not well-formed"),
        ("<a>" * 300, "levels deep|not well-formed"),
        ("<r><a/><b/></r>", "no element that is repeated"),
        ("<html><body><p>a</p></body></html>", "is a web page; open it"),
        ("<html><body><table><tr><td>a</td></tr></table></body></html>", "is a web page without a table of rows"),
        ("<yml_catalog><shop><offers/></shop></yml_catalog>", "is a YML feed without an offer"),
    ],
)
def test_what_is_no_table_or_dangerous_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        rows_of(tmp_path, text)
    assert "\n" not in str(error.value)


def test_an_external_dtd_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.dtd").write_text('<!ENTITY x "secret">')
    text = f'<!DOCTYPE r SYSTEM "file://{tmp_path}/x.dtd"><r><item><t>a&x;</t></item><item><t>b</t></item></r>'
    try:
        rows = rows_of(tmp_path, text)
    except UserError as error:
        assert "well-formed" in str(error)
    else:
        assert "secret" not in str(rows)


YML = """<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE yml_catalog SYSTEM "shops.dtd"><yml_catalog date="2024-01-01"><shop>
<currencies><currency id="UAH" rate="1"/></currencies>
<categories>{categories}</categories><offers>{offers}</offers></shop></yml_catalog>"""


def test_a_yml_feeds_rows_are_its_offers_with_the_path_of_their_category(tmp_path: Path) -> None:
    categories = '<category id="1">Home</category><category id="7" parentId="1">Lamps</category>' + "".join(
        f'<category id="{k}" parentId="7">Lamp {k}</category>' for k in range(10, 60)
    )
    offers = (
        '<offer id="a" group_id="g"><name>Desk lamp</name><price>5</price><categoryId>7</categoryId>'
        "<picture>a.jpg</picture><picture>b.jpg</picture></offer>"
        '<offer id="b"><typePrefix>Lamp</typePrefix><vendor>Acme</vendor><model>L2</model><categoryId>99</categoryId></offer>'
    )
    first, second = rows_of(tmp_path, YML.format(categories=categories, offers=offers))
    assert (first["name"], first["category"], first["picture"], first["group_id"]) == (
        "Desk lamp",
        "Home > Lamps",
        ["a.jpg", "b.jpg"],
        "g",
    )
    assert second["name"] == "Lamp Acme L2" and "category" not in second


def test_categories_in_a_circle_end(tmp_path: Path) -> None:
    categories = '<category id="1" parentId="2">A</category><category id="2" parentId="1">B</category>'
    (row,) = rows_of(tmp_path, YML.format(categories=categories, offers="<offer><categoryId>1</categoryId></offer>"))
    assert row["category"].endswith("B > A")
