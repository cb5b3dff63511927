"""JSON from outside is read by the letter, checked against its shape, and names only files of its own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v.documents import MOST_DEPTH, check_shape, inside, parse_json, read_as, read_json
from mlx_phi3v.errors import UserError


class Inner(msgspec.Struct):
    sizes: list[Annotated[int, msgspec.Meta(ge=1, le=9)]] | None = None


class Outer(msgspec.Struct):
    name: str
    inner: Inner | None = None
    files: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "b.c is given twice; it must be given once"),
        ('{"a": [0, NaN]}', r"a\[1\] is NaN; it must be a finite number"),
        ('{"a": -Infinity}', "a is infinite; it must be a finite number"),
        ('{"a": 1e400}', "a is infinite; it must be a finite number"),
        ('{"a": {"b": ' + "7" * 5000 + "}}", "a.b is a number of 5000 digits"),
        ('{"a": "\\ud800"}', "a is .* it must be text without half a surrogate pair"),
        ('{"a": {"\\udfff": 1}}', "a is an object with the key"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * (MOST_DEPTH + 1) + "1" + "}" * (MOST_DEPTH + 1), "nested too deeply"),
    ],
)
def test_what_json_allows_only_by_accident_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x\.json.*{message}") as error:
        read_json(tmp_path / "x.json", "settings")
    assert len(str(error.value).replace(str(tmp_path), "")) < 400


@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}"])
def test_a_byte_order_mark_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=r"settings .*x\.json begins with a byte order mark; save it as UTF-8 without one"):
        read_json(tmp_path / "x.json", "settings")


@pytest.mark.parametrize("data", [b"", b"{", b"{'a': 1}", b'{"a": "\xff"}', b"[1,]"])
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=r"settings .*x\.json is not valid JSON"):
        read_json(tmp_path / "x.json", "settings")


def test_only_a_file_of_sound_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    for name in ("pipe", "folder", "large"):
        with pytest.raises(UserError, match=f"settings .*{name} cannot be read"):
            read_json(tmp_path / name, "settings")
    with pytest.raises(UserError, match="settings not found"):
        read_json(tmp_path / "nowhere", "settings")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"x\.json is \[1\]; it must be an object"),
        (None, r"x\.json is null; it must be an object"),
        ({}, r"x\.json has no name; it must be there"),
        ({"name": 5}, r"name is 5; it must be text"),
        ({"name": "a", "inner": "b"}, r'inner is "b"; it must be an object'),
        ({"name": "a", "inner": {"sizes": [1, "2"]}}, r'inner\.sizes\[1\] is "2"; it must be a whole number'),
        ({"name": "a", "inner": {"sizes": [1.5]}}, r"inner\.sizes\[0\] is 1\.5; it must be a whole number"),
        ({"name": "a", "inner": {"sizes": [True]}}, r"inner\.sizes\[0\] is true; it must be a whole number"),
        ({"name": "a", "inner": {"sizes": [0]}}, r"inner\.sizes\[0\] is 0; it must be a whole number of at least 1"),
        ({"name": "a", "inner": {"sizes": [10**30]}}, r"inner\.sizes\[0\] is 10+; it must be a whole number of at most 9"),
        ({"name": "a", "files": {"b": "c", "d.e": 5}}, r"files\.d\.e is 5; it must be text"),
        ({"name": "a", "files": [["b"]]}, r'files is \[\["b"\]\]; it must be an object'),
        ({"name": "a", "files": "b" * 500}, r'files is "b{56}\.\.\.; it must be an object'),
    ],
)
def test_a_value_of_another_shape_is_named_by_file_and_key(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        read_as(tmp_path / "x.json", "settings", Outer)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-nulltrfas\\ud8', max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_one_sentence(data: bytes) -> None:
    try:
        value = parse_json(data, "x.json")
    except (UserError, ValueError) as error:  # of a ValueError `read_json` makes the sentence
        assert "x.json" in str(error) or isinstance(error, ValueError)
    else:
        json.dumps(value, allow_nan=False).encode()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional={"name": VALUES, "inner": VALUES, "files": VALUES}) | VALUES)
def test_any_value_is_of_the_shape_or_one_sentence(value: Any) -> None:
    try:
        checked = check_shape(value, Outer, "x.json")
    except UserError as error:
        assert str(error).startswith("x.json") and "it must be" in str(error) and len(str(error)) < 300
    else:
        assert isinstance(checked.name, str) and all(isinstance(file, str) for file in checked.files.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file, beside a secret one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "part").write_text("")
    (tmp_path / "secret").write_text("")
    return tmp_path / "model"


NAMES = [
    "../secret",
    "a/../../secret",
    "/etc/hostname",
    "..",
    "",
    ".",
    "C:/x",
    "C:x",
    "a\\..\\b",
    "a\0b",
    "a\nb",
    "n" * 300,
    "//x",
]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "."])
def test_a_name_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"index\.json names the file"):
        inside(folder, name, folder / "index.json")


def test_links_may_not_lead_out_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "out").symlink_to("../secret")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "round").symlink_to("round")
    (folder / "within").symlink_to("part")
    for name in ("out", "up/secret", "round"):
        with pytest.raises(UserError, match=rf"index\.json names the file .*{name}.*a link out of its folder"):
            inside(folder, name, folder / "index.json")
    assert inside(folder, "within", folder / "index.json").read_text() == ""
    # The folder itself may be a link: it is what the user chose.
    (tmp_path / "link").symlink_to("model", target_is_directory=True)
    assert inside(tmp_path / "link", "part", tmp_path / "link" / "index.json").is_file()


def test_a_snapshot_of_the_hub_may_link_into_the_blobs_of_its_repository(tmp_path: Path) -> None:
    for name in ("models--a--b", "models--c--d"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "blobs" / "0123").write_text(name)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "own").symlink_to("../../blobs/0123")
    (snapshot / "other").symlink_to("../../../models--c--d/blobs/0123")
    assert inside(snapshot, "own", snapshot / "index.json").read_text() == "models--a--b"
    with pytest.raises(UserError, match="a link out of its folder"):
        inside(snapshot, "other", snapshot / "index.json")
