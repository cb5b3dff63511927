"""How deeply JSON is nested is found in any pieces of it, and a file too deep for the parser is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.reading.json_table import JsonTable
from data.ingest.reading.nesting import MOST_LEVELS, Nesting
from mlx_phi3v.errors import UserError

VALUES = st.recursive(
    st.text('ab[]{}"\\é', max_size=6) | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text('["\\'), inner)
)


def levels(value: object) -> int:
    if isinstance(value, (list, dict)):
        return 1 + max(map(levels, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(value=VALUES, size=st.integers(1, 40), plain=st.booleans())
def test_the_deepest_level_is_found_in_any_pieces(value: object, size: int, plain: bool) -> None:
    data, nesting = json.dumps(value, ensure_ascii=plain).encode(), Nesting()
    assert max(nesting.deepest(data[at : at + size]) for at in range(0, len(data), size)) == levels(value)


@pytest.mark.parametrize("row", ["[" * 100_000, '{"a":' * 100_000, '{"b": "' + "]" * 300_000 + '", "a": ' + "[" * 100_000])
@pytest.mark.parametrize("start", ['[{"a": 1}, ', '{"rows": [{"a": 1}, {"a": 2}, '])
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path, start: str, row: str) -> None:
    (tmp_path / "s.json").write_text(start + row)
    with pytest.raises(UserError, match=r"s\.json is nested too deeply; it must have at most 500 levels"):
        list(JsonTable(tmp_path / "s.json").rows())


def test_a_file_of_usual_depth_is_read(tmp_path: Path) -> None:
    deep = "[" * (MOST_LEVELS - 3) + "]" * (MOST_LEVELS - 3)
    (tmp_path / "s.json").write_text('[{"a": 1}, {"a": 2, "b": ' + deep + "}]")
    assert len(list(JsonTable(tmp_path / "s.json").rows())) == 2
