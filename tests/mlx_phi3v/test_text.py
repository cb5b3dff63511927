"""Text from outside is shown and stored, and neither a terminal nor a spreadsheet obeys it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v.text import csv_cell, in_form, printable, storable

PLAIN = ("Wool scarf", "Ärmel 12,50\u00a0€", "👩\u200d👧 print", "می\u200cخواهم", "שלום", "[bold]x[/bold]", "e\u0301", "")


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text == storable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("a\rb\bc\x7f", "a\\rb\\x08c\\x7f"),
        ("a\nb\u2028", "a\\nb\\u2028"),
        ("a\ud800", "a\\ud800"),
        ("\ufeffa\u200b\U000e0041", "\\ufeffa\\u200b\\U000e0041"),
    ],
)
def test_what_acts_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_feeds_stay_where_they_are_wanted() -> None:
    assert printable("a\n\tb", lines=True) == "a\n\\tb"


@settings(max_examples=300)
@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
def test_nothing_shown_acts_and_everything_can_be_stored(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert printable(shown) == shown
    shown.encode("utf-8"), storable(text).encode("utf-8")


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "=", "-20% Hat", "+1 Hat"]
)
def test_a_cell_that_a_spreadsheet_would_run_gets_a_quote(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["-5", "+3.2", "-1e5", "-20 %", "Hat", "", "a=b", 5, -5.0, None])
def test_numbers_and_other_text_stay(value: object) -> None:
    assert csv_cell(value) == value


@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD", "NFKD"])
def test_a_unicode_form_is_the_library_s_but_for_more_accents_in_a_row_than_a_letter_has(form: Any) -> None:
    for text in ("e\u0301", "ﬁ \u1e69", "a" + "\u0315\u0300" * 400, "é" * 5000, "\u0315" * 1500, "한\u1112\u1161" * 700, ""):
        assert in_form(form, text) == unicodedata.normalize(form, text)
    # As one, these would take an hour: the time of putting them in order grows as the square of their number.
    many = in_form(form, "e" + "\u0315\u0300" * 1_000_000)
    assert len(many) >= 2_000_000
