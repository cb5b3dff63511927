"""The pictures of a cell are found in every form that shops write."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.ingest.mapping import FieldMapping
from data.ingest.picture_references import photo_references, split_pictures
from data.ingest.row_references import row_references

A, B = "https://cdn.example/a.jpg", "https://cdn.example/b.png?v=1,2"

FORMS: list[tuple[Any, list[Any]]] = [
    *((value, []) for value in (None, "", "  ", [], {}, b"", float("nan"), [None, ""], {"bytes": None, "path": None})),
    ("a.jpg", ["a.jpg"]),
    ("my photo, blue.jpg", ["my photo, blue.jpg"]),
    ("a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
    ("a.jpg , b b.png;", ["a.jpg", "b b.png"]),
    ("a.jpg|b", ["a.jpg", "b"]),
    ("a.jpg~b.jpg", ["a.jpg", "b.jpg"]),
    ("a.jpg; b.jpg;", ["a.jpg", "b.jpg"]),
    ("a.jpg\nb.jpg", ["a.jpg", "b.jpg"]),
    ("a.jpg b.jpg", ["a.jpg", "b.jpg"]),
    ("IMG~1.JPG", ["IMG~1.JPG"]),
    *((f"{A}{sign}{B}", [A, B]) for sign in (",", ", ", "|", " | ", "~", ";", "; ", " ", "\n", "\t")),
    (f"{A},", [A]),
    ("//cdn.example/a.jpg,//cdn.example/b.jpg", ["//cdn.example/a.jpg", "//cdn.example/b.jpg"]),
    ("https://c.example/w_600,h_400;q/a.jpg", ["https://c.example/w_600,h_400;q/a.jpg"]),
    (f'["{A}", "{B}"]', [A, B]),
    (f"['{A}', '{B}']", [A, B]),
    ('{"src": "a.jpg"}', ["a.jpg"]),
    ("[{'url': 'a.jpg', 'width': 5}, {'url': 'b.jpg'}]", ["a.jpg", "b.jpg"]),
    ("[not a list", ["[not a list"]),
    ("data:image/png;base64,AA==", ["data:image/png;base64,AA=="]),
    ([A, {"src": B}], [A, B]),
    ({"thumb": "s.jpg", "large": "l.jpg", "hi_res": None}, ["l.jpg"]),
    ({"hi_res": [None, "h2.jpg"], "large": ["l1.jpg", "l2.jpg"]}, ["l1.jpg", "h2.jpg"]),
    ({"bytes": b"x", "path": "a.jpg"}, [b"x"]),
    ({"bytes": None, "path": "a.jpg"}, ["a.jpg"]),
    ({"image": {"src": "a.jpg"}}, ["a.jpg"]),
    ({"url_75x75": "s.jpg", "url_fullxfull": "l.jpg"}, ["l.jpg"]),
    ('=IMAGE("a.jpg")', ["a.jpg"]),
    (f'=HYPERLINK("{A}"; "front")', [A]),
    ("![front](a.jpg) ![back view](b.jpg)", ["a.jpg", "b.jpg"]),
    ('<img class="x" src="a.jpg" width=5><img src=b.jpg>', ["a.jpg", "b.jpg"]),
    (f"front.jpg ({A}),back 2.png (https://cdn.example/b)", [A, "https://cdn.example/b"]),
    ("photo (1).jpg", ["photo (1).jpg"]),
    ("[1] photo.jpg", ["[1] photo.jpg"]),
    (b"bytes", [b"bytes"]),
    (7, [7]),
]


@pytest.mark.parametrize(("value", "expected"), FORMS)
def test_the_pictures_of_a_cell(value: Any, expected: list[Any]) -> None:
    assert photo_references(value) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *("{a.jpg,b.jpg}", '{"a.jpg","b.jpg"}', "[a.jpg, b.jpg]", '("a.jpg", "b.jpg")', "'a.jpg','b.jpg'", "a.jpg、b.jpg"),
        *("a.jpg<br>b.jpg", "a.jpg / b.jpg", "a.jpg + b.jpg", "a.jpg#b.jpg", "a.jpg^b.jpg", r"a.jpg\nb.jpg"),
    ],
)
def test_paths_are_cut_at_any_sign_that_leaves_photos(cell: str) -> None:
    assert photo_references(cell) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("cell", ["a # 1.jpg", "front / side.jpg", "(a).jpg", "[a] b.jpg", "a + b.jpg", "{id}.jpg"])
def test_a_sign_inside_a_name_cuts_nothing(cell: str) -> None:
    assert photo_references(cell) == [cell]


def test_a_separator_that_is_given_always_cuts() -> None:
    assert photo_references("a,b;c", ";") == ["a,b", "c"]
    assert photo_references("one two", " ") == ["one", "two"]


def mapping(*images: str, **settings: Any) -> FieldMapping:
    return FieldMapping((), images, None, None, None, None, **settings)


def test_columns_paths_and_patterns_give_pictures_in_their_order() -> None:
    row = {"id": 1501, "front": "f.jpg", "media": [{"src": "m1.jpg"}, {"src": "m2.jpg"}]}
    assert row_references(mapping("front", "media.0.src", "images/{id:010}.jpg"), row) == [
        "f.jpg",
        "m1.jpg",
        "images/0000001501.jpg",
    ]
    assert row_references(mapping("media.*.src"), row) == ["m1.jpg", "m2.jpg"]
    assert row_references(mapping("images/{id}.jpg"), {"id": None}) == []


@pytest.mark.parametrize(
    ("root", "path", "url"),
    [
        ("https://shop.example", "/media/a b.jpg", "https://shop.example/media/a b.jpg"),
        ("https://shop.example/", "a.jpg", "https://shop.example/a.jpg"),
        ("https://shop.example/pub/media/", "/w/s/a.jpg", "https://shop.example/pub/media/w/s/a.jpg"),
        ("https://shop.example/pub/media", "w\\s\\a.jpg", "https://shop.example/pub/media/w/s/a.jpg"),
        ("https://shop.example", "https://other.example/a.jpg", "https://other.example/a.jpg"),
        ("https://shop.example", "data:image/png;base64,AA==", "data:image/png;base64,AA=="),
    ],
)
def test_a_base_url_makes_urls_of_paths(root: str, path: str, url: str) -> None:
    assert row_references(mapping("p", image_root=root), {"p": path}) == [url]


TEXTS = st.text(max_size=30) | st.from_regex(r"[\[{].*[\]}]", fullmatch=True)
KEYS = st.sampled_from(["src", "url", "hi_res", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.binary(max_size=4) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300)
@given(VALUES)
def test_any_value_gives_a_list(value: Any) -> None:
    assert all(item is not None and item not in ("", [], {}) for item in photo_references(value))


def test_the_keys_or_values_of_an_object_may_be_the_photos() -> None:
    url = "https://static.shop.example/p/1.jpg?ts=9"
    assert photo_references(f"[{{'{url}': ['https://static.shop.example/w/100/1.jpg']}}]") == [url]
    assert photo_references({"1": "a.jpg", "2": "b.png", "note": "x"}) == ["a.jpg", "b.png"]
    assert photo_references({"front": ["a.jpg", "b.jpg"], "id": 7}) == ["a.jpg", "b.jpg"]
    assert photo_references({"alt": "none", "id": 7}) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_bytes_that_a_table_holds_as_text_are_bytes(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, kind)
    data = buffer.getvalue()
    assert photo_references(base64.b64encode(data).decode()) == [data]
    assert photo_references(base64.encodebytes(data).decode()) == [data]
    assert photo_references(repr(data)) == [data]
    assert photo_references(str({"bytes": data[:60], "path": None})) == [data[:60]]


@pytest.mark.parametrize("text", ["/9j/a.jpg", "R0lGOD/x.png", "b'x.jpg", "b'\\x", "iVBORw0KGgo" + "!" * 100])
def test_a_text_that_only_begins_so_stays_as_it_is(text: str) -> None:
    assert photo_references(text) == [text]


@pytest.mark.parametrize(
    ("start", "again"),
    [
        ("[a](b.jpg) ", "[" * 500_000),
        ("<img src=b.jpg>", "<img " * 180_000),
        ("a.png (http://x/b.jpg) ", "a" * 900_000),
        ("http://x/b.jpg", " ," * 400_000 + "x"),
    ],
    ids=["Markdown", "HTML", "Airtable", "separators"],
)
def test_a_long_cell_is_read_in_a_time_that_grows_as_its_length(start: str, again: str) -> None:
    """With a time that grows as its square, each of these would take more than ten minutes."""
    assert "b.jpg" in photo_references(start + again)[0]


@pytest.mark.parametrize("separator", [None, "|"])
def test_an_empty_cell_of_photos_is_cut_without_an_error(separator: str | None) -> None:
    assert "".join(split_pictures("", separator)) == ""
