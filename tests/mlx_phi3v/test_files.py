"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_folder, atomic_path, read_json, sha256_bytes, sha256_file, sha256_json, write_json


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert json.loads(path.read_text()) == {"a": 1}
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("whole")
        assert not path.exists()
    assert (path / "a").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")
    with pytest.raises(UserError, match="run exists and is not empty"), atomic_folder(tmp_path / "run"):
        pass
    with atomic_folder(tmp_path / "run", overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["new"] and len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run is a file"), atomic_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ('{"a": ', "not valid JSON"), ("\xff", "not valid JSON")]
)
def test_malformed_json_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"the settings .*x.json.*{message}|the settings not found.*x.json {message}"):
        read_json(tmp_path / "x.json", "the settings")


@given(value=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_the_hash_of_json_does_not_depend_on_key_order(value: dict[str, int | str]) -> None:
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))
    assert sha256_json(value) != sha256_json({**value, "one more": 1})


def test_a_file_hashes_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"x" * 100_000)
