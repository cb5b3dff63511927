"""Numbers that would crash the JSON parser are refused first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.reading.json_table import JsonTable
from data.ingest.reading.long_numbers import MOST_DIGITS, has_long_number
from mlx_phi3v.errors import UserError


@given(before=st.integers(0, 9000), digits=st.integers(MOST_DIGITS - 2, MOST_DIGITS + 2), after=st.integers(0, 50))
def test_a_run_of_too_many_digits_is_found_wherever_it_is(before: int, digits: int, after: int) -> None:
    assert has_long_number(b"x" * before + b"7" * digits + b"," * after) == (digits > MOST_DIGITS)


@pytest.mark.parametrize(
    "text", ['[{{"a": {}}}]', '{{"products": [{{"a": 1}}, {{"a": {}}}]}}', '[{{"b": "' + "x" * 300_000 + '"}}, {{"a": {}}}]']
)
@pytest.mark.parametrize("digits", [MOST_DIGITS + 1, 300_000])
def test_such_a_file_is_refused(tmp_path: Path, text: str, digits: int) -> None:
    path = tmp_path / "s.json"
    path.write_text(text.format("9" * digits))
    with pytest.raises(UserError, match=r"s.json holds a number of more than 4,300 digits"):
        list(JsonTable(path).rows())
