"""Cells as people read them: lists, objects and HTML become text, words for nothing are missing."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.values import is_nothing, price_parts, readable, without_html


@pytest.mark.parametrize(
    ("value", "text", "path"),
    [
        (["Red", "Blue"], "Red, Blue", "Red > Blue"),
        ([["Home", "Lighting"]], "Home, Lighting", "Home > Lighting"),
        ([["Home", "Lighting"], ["Sale"]], "Home, Lighting, Sale", "Home > Lighting, Sale"),
        (["Red", None, "n/a", "", "Red"], "Red", "Red"),
        ([], None, None),
        ([[], {}], None, None),
        ({"name": "Lamp", "id": 7}, "Lamp", "Lamp"),
        ({"id": 7, "label": "Lamp"}, "Lamp", "Lamp"),
        ([{"name": "Home"}, {"name": "Lamps"}], "Home, Lamps", "Home > Lamps"),
        ({"data": {"id": 3, "attributes": {"name": "Lamp"}}}, "Lamp", "Lamp"),
        (
            {"data": [{"id": 3, "attributes": {"name": "Home"}}, {"id": 4, "attributes": {"name": "Lamp"}}]},
            "Home, Lamp",
            "Home > Lamp",
        ),
        ({"stringValue": "Lamp"}, "Lamp", "Lamp"),
        ({"en": "Lamp", "de": "Lampe"}, "Lamp", "Lamp"),
        ({"width": 3, "height": None}, "width: 3", "width: 3"),
        ("['Home', 'Lighting']", "Home, Lighting", "Home > Lighting"),
        ('["Home", "Lighting"]', "Home, Lighting", "Home > Lighting"),
        ("[NEW] Lamp", "[NEW] Lamp", "[NEW] Lamp"),
        ("[NEW]", "[NEW]", "[NEW]"),
        ("{size}", "{size}", "{size}"),
        (b"Lamp", "Lamp", "Lamp"),
        (True, "true", "true"),
        (5, "5", "5"),
    ],
)
def test_a_cell_becomes_text_that_people_read(value: Any, text: str | None, path: str | None) -> None:
    assert (readable(value), readable(value, path=True)) == (text, path)


# The `na_values` that pandas' documentation of read_csv lists.
PANDAS = [
    *(
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
    ),
    *("None", "n/a", "nan", "null"),
]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_no_value_of_json_becomes_a_python_text(value: Any) -> None:
    text = readable(value)
    if isinstance(value, (list, dict)) and text is not None:
        assert text != repr(value) and text != json.dumps(value)


def test_what_pandas_reads_as_missing_is_nothing_and_so_are_the_errors_of_excel() -> None:
    words = [*PANDAS, *("#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "-", "--", "undefined", "[]", "{}", r"\N", " n/a ")]
    assert [word for word in words if not is_nothing(word)] == []
    assert pd.read_csv(io.StringIO("a\n" + "\n".join(PANDAS)))["a"].isna().all()  # the list is still pandas' own


@pytest.mark.parametrize("word", ["Nan", "na", "Non", "0", "No", "none of these", "-5", "Null Island", "N/A tape", "nothing"])
def test_what_is_a_word_of_its_own_is_kept(word: str) -> None:
    assert not is_nothing(word) and readable(word) == word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Silk &amp; wool</p><p>soft</p>", "Silk & wool soft"),
        ("<b>Bold</b>er", "Bolder"),
        ("one<br>two<br/>three", "one two three"),
        ("<ul><li>One<li>Two</ul>", "One Two"),
        ("&lt;b&gt;Hi&lt;/b&gt; &amp;amp; you", "Hi & you"),
        ("Caf&eacute; &#39;Rouge&#39; &#x41;", "Café 'Rouge' A"),
        ("<script>alert(1)</script>Hat<style>p{}</style>", "Hat"),
        ("<!-- note -->Hat<!-- cut", "Hat"),
        ("<![CDATA[<b>Hat</b> & cap]]>", "Hat & cap"),
        ("<a href='x>y'>Hat</a>", "Hat"),
        ("<B>" * 3000 + "Hat", "Hat"),
        ("5 < 6 and 7 > 2", "5 < 6 and 7 > 2"),
        ("Size <M>", "Size <M>"),
        ("Size <M>, <b>new</b>", "Size <M>, new"),
        ("AT&T, R&D &copy 2020", "AT&T, R&D &copy 2020"),
        ("<|end|>", "<|end|>"),
        ("<br>", ""),
    ],
)
def test_html_leaves_text_and_what_is_no_html_stays(text: str, expected: str) -> None:
    assert without_html(text) == expected


@given(st.text(alphabet=st.sampled_from("<>&;/bp!-#x1 a\"'="), max_size=40))
def test_no_tag_is_left_and_nothing_is_raised(text: str) -> None:
    assert "<b>" not in without_html(text) and "<p>" not in without_html(text)


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ({"amount": 29.5, "currency": "EUR"}, (29.5, "EUR")),
        ('{"value": "12.50", "currencyCode": "USD"}', ("12.50", "USD")),
        ([{"price": {"amount": 2, "currency": "GBP"}}], (2, "GBP")),
        ([9.5], (9.5, None)),
        ({"amount": 1990, "divisor": 100, "currency_code": "EUR"}, (Decimal("19.9"), "EUR")),
        ({"price": "1990", "currency_code": "EUR", "currency_minor_unit": 2}, (Decimal("19.9"), "EUR")),
        ({"price": "1990", "currency_code": "JPY", "currency_minor_unit": 0}, (Decimal("1990"), "JPY")),
        ({"price": "$12", "divisor": "x"}, ("$12", None)),
        ({"$numberDecimal": "19.90"}, ("19.90", None)),
        ({"N": "19.9"}, ("19.9", None)),
        ("$12", ("$12", None)),
        ({"note": "x"}, (None, None)),
    ],
)
def test_a_price_may_be_an_object(cell: Any, parts: tuple[Any, Any]) -> None:
    assert price_parts(cell) == parts


@pytest.mark.parametrize("text", ["{[1]: 2}", "[{[1]}]", "[{{}: 1}]"])
def test_text_that_looks_like_an_object_of_python_and_is_none_stays_text(text: str) -> None:
    assert readable(text) == text


def test_parts_that_begin_and_never_end_stay_as_they_are() -> None:
    text = "<![CDATA[wool]]> " + "<![CDATA[" * 100_000  # a search for the end from each start would take an hour
    assert without_html(text).startswith("wool ")
