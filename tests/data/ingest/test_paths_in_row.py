"""Dotted paths reach what is nested in a row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ingest.paths_in_row import column_of, leaf_paths, nested, resolve

ROW = {
    "title": "Hat",
    "price": {"amount": 12.5, "currency": {"code": "EUR"}},
    "images": [{"src": "a.jpg", "alt": None}, {"src": "b.jpg"}, {"href": "c.jpg"}],
    "sizes": [["S", "M"], ["L"]],
    "a.b": "a column's own name",
    "a": {"b": "shadowed", "c": 3},
    "0": "a digit",
    "json": '{"large": ["x.jpg", "y.jpg"]}',
    "python": "[{'src': 'p.jpg', 'ok': True}]",
    "text": "[no list",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", "Hat"),
        ("price.amount", 12.5),
        ("price.currency.code", "EUR"),
        ("price", ROW["price"]),
        ("images.0.src", "a.jpg"),
        ("images.-1.href", "c.jpg"),
        ("images.*.src", ["a.jpg", "b.jpg"]),
        ("images.src", ["a.jpg", "b.jpg"]),
        ("sizes.0.1", "M"),
        ("sizes.*.0", ["S", "L"]),
        ("a.b", "a column's own name"),
        ("a.c", 3),
        ("price.*", [12.5, {"code": "EUR"}]),
        ("json.large.1", "y.jpg"),
        ("python.0.src", "p.jpg"),
        ("images.9.src", None),
        ("images.*.none", None),
        ("price.amount.cents", None),
        ("text.0", None),
        ("none", None),
        ("none.at.all", None),
        ("", None),
        ("images..src", None),
        ("images." + "9" * 50, None),
    ],
)
def test_a_path_gives_the_value_there_or_none(path: str, value: Any) -> None:
    assert resolve(ROW, path) == value


def test_the_column_of_a_path_is_the_longest_that_fits() -> None:
    assert column_of("a.b", ROW) == "a.b"
    assert column_of("a.b.c", ROW) == "a.b"
    assert column_of("a.x", ROW) == "a"
    assert column_of("b.x", ROW) is None


def test_every_listed_path_is_reached() -> None:
    paths = leaf_paths({key: value for key, value in ROW.items() if key != "a"})
    assert {"title", "price.amount", "price.currency.code", "images.0.src", "images.0.alt", "a.b"} <= set(paths)
    assert all(not isinstance(resolve(ROW, path), dict) for path in paths)
    assert leaf_paths({str(k): k for k in range(1000)}, most=7) == [str(k) for k in range(7)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.text(max_size=8) | st.from_regex(r"\A[a-c0-2*.-]{0,8}\Z"))
def test_no_path_raises_on_any_row(row: dict[str, Any], path: str) -> None:
    resolve(row, path)
    leaf_paths(row)


@pytest.mark.parametrize(
    "text", ["[" * 5000 + "]" * 5000, "{1: 2, []: 3}", "[" + "1," * 60_000 + "]", "{}", "[x]", "", "[", "{]"]
)
def test_text_that_is_no_object_stays_text(text: str) -> None:
    assert nested(text) == ({} if text == "{}" else text)
