"""Titles: one Unicode form, one line, nothing hidden, no special token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.text import normalise


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Cafe\u0301 dress", "Café dress"),
        ("  two\t words\n", "two words"),
        ("zero\u200bwidth", "zerowidth"),
        ("a\u200b\u0301", "á"),
        ("right\u202eto left", "rightto left"),
        ("\ufeffmark", "mark"),
        ("tab\x07bell", "tabbell"),
        ("Size <|end|> M", "Size ‹|end|> M"),
        ("<|e\u200bnd|>", "‹|end|>"),
        ("</s>", "‹/s>"),
        ("5 < 6", "5 < 6"),
        ("👩\u200d👧 print", "👩\u200d👧 print"),
        ("half\ud800", "half"),
    ],
)
def test_a_title_is_normalised(given_text: str, expected: str) -> None:
    assert normalise(given_text) == expected


@given(st.text(alphabet=st.sampled_from("<|end>/s unk_image1\u200b\u0301 a\n"), max_size=40))
def test_no_special_token_survives_and_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert not re.search(r"<\|[^|<>]*\|>|</?s>|<unk>", once)
    assert normalise(once) == once
