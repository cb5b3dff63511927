"""Ranges and outputs are declared with their flags, for every command, and said in one sentence."""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v.cli import build, option, parse
from mlx_phi3v.errors import UserError
from mlx_phi3v.flags import plain_type
from mlx_phi3v.outputs import output_path
from mlx_phi3v.ranges import MAX_SEED, Range, range_of, short
from tests.helpers.paths import ROOT
from tests.mlx_phi3v.test_cli import CONFIGS


def numbers() -> list[tuple[str, dataclasses.Field[Any], Any]]:
    """(command, field, its type) of every flag that takes a number."""
    found = []
    for command, cls in CONFIGS.items():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            kind, _ = plain_type(hints[field.name])
            if kind in (int, float) and "help" in field.metadata:
                found.append((command, field, kind))
    return found


NUMBERS = numbers()


def read_field(command: str, field: dataclasses.Field[Any], text: str) -> Any:
    flag = "--" + field.name.replace("_", "-")
    return parse(CONFIGS[command], f"python -m mlx_phi3v.{command}", "", [f"{flag}={text}"])


def test_every_number_has_a_lower_end_and_every_whole_number_an_upper_one() -> None:
    assert len(NUMBERS) > 60
    lacking = [f"{command} {field.name}" for command, field, kind in NUMBERS if not bounded(field, kind)]
    # Sizes with two or three values, which are checked as such.
    assert sorted(lacking) == ["convert q_bits", "convert q_group_size"]


def bounded(field: dataclasses.Field[Any], kind: type) -> bool:
    ends = range_of(field)
    low = ends.at_least is not None or ends.above is not None
    return low and (kind is float or ends.at_most is not None or ends.below is not None)


@pytest.mark.parametrize(("command", "field", "kind"), NUMBERS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_number_out_of_its_range_is_named(command: str, field: dataclasses.Field[Any], kind: type) -> None:
    bad = [str(10**400), "-1"] if kind is int else ["nan", "-inf", "-1"]
    if "q_" in field.name or field.name in ("max_bytes", "max_pixels", "seed"):
        bad = bad[1:] if "seed" in field.name else []
    bad = [text for text in bad if text != "-1" or not range_of(field).allows(-1)]
    for text in bad:
        with pytest.raises(UserError) as error:
            read_field(command, field, text)
        line = str(error.value)
        assert line.startswith(f"--{field.name.replace('_', '-')} is ") and f"; it must be {range_of(field)}" in line
        assert "\n" not in line and len(line) < 200


@pytest.mark.parametrize("command", CONFIGS)
def test_every_default_is_within_its_range(command: str) -> None:
    for field in dataclasses.fields(CONFIGS[command]):
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        for value in values:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert range_of(field).allows(value), field.name


@pytest.mark.parametrize(
    ("ends", "said", "good", "bad"),
    [
        (Range(above=0), "above 0", (1e-300, 5), (0, -1, math.nan, math.inf)),
        (Range(at_least=0, below=1), "from 0 to below 1", (0, 0.999), (1, -0.1)),
        (Range(at_least=1, at_most=4096), "from 1 to 4,096", (1, 4096), (0, 4097)),
        (Range(above=0, at_most=1), "above 0 and at most 1", (1, 0.1), (0, 1.1)),
        (Range(at_least=2), "2 or more", (2, 10**400), (1,)),
        (Range(at_least=0, at_most=MAX_SEED), "from 0 to 2**63 - 1", (0, MAX_SEED), (-1, MAX_SEED + 1)),
        (Range(), "a finite number", (0.0, -5), (math.nan, -math.inf)),
    ],
)
def test_a_range_says_what_it_allows(ends: Range, said: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    assert str(ends) == said
    assert all(map(ends.allows, good)) and not any(map(ends.allows, bad))


@dataclass(frozen=True)
class Numbers:
    share: float = option(0.5, help="a share", at_least=0, below=1)
    sizes: tuple[int, ...] = option((1,), help="sizes", at_least=1, at_most=9)


def test_flags_and_yaml_are_checked_alike_and_each_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("share: .nan\n")
    with pytest.raises(UserError) as error:
        parse(Numbers, "prog", "", ["--config", str(path)])
    assert str(error.value) == f"share in --config {path} is nan; it must be from 0 to below 1"
    with pytest.raises(UserError) as error:
        parse(Numbers, "prog", "", ["--config", str(path), "--share", "1"])
    assert str(error.value) == "--share is 1.0; it must be from 0 to below 1"
    with pytest.raises(UserError, match="sizes in a test is 10; it must be from 1 to 9"):
        build(Numbers, {"sizes": [3, 10]}, "a test")


def test_help_shows_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Numbers, "prog", "", ["--help"])
    assert "a share; from 0 to below 1 (default: 0.5)" in capsys.readouterr().out


def test_a_value_is_shown_short_and_on_one_line() -> None:
    assert short("a\nb\x1b[2J") == repr("a\nb\x1b[2J") and len(short("x" * 5000)) == 60
    assert short(10**5000) == "a number of thousands of digits"


def test_where_nothing_can_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "catalogue.json").write_text("{}")
    for path, writes, message in [
        (tmp_path / "file" / "a" / "b", "new", "lies below .*file, a file"),
        (tmp_path / "file", "folder", "a file; give a folder"),
        (Path("/"), "folder", "give a folder in it"),
        (tmp_path / "shop", "folder", "a catalogue; give another folder"),
        (tmp_path, "html", "a folder; give the name of a file"),
        (tmp_path / "file", "html", "a file that this command did not write"),
        (tmp_path / "loop", "new", "a symbolic link in a circle|a file; give a folder"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            output_path(path, writes, "--output")  # type: ignore[arg-type]
        assert str(error.value).startswith("--output is ")


def test_a_mount_point_is_written_in_place_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(UserError, match=r"--output is .*, a mount point; the folder must appear whole, so give one in it"):
        output_path(tmp_path, "new", "--output")
    assert output_path(tmp_path, "folder", "--output") == tmp_path
    assert output_path(tmp_path / "new", "new", "--output") == tmp_path / "new"


def test_a_link_is_written_through_and_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to("big")
    (tmp_path / "later").symlink_to("not-there-yet")
    assert output_path(tmp_path / "link", "new", "--output") == (tmp_path / "big").resolve()
    assert output_path(tmp_path / "later", "new", "--output") == (tmp_path / "not-there-yet").resolve()
    monkeypatch.chdir(tmp_path / "big")
    assert output_path(Path("."), "folder", "--output") == (tmp_path / "big").resolve()
    with pytest.raises(UserError, match=r"--output is the current folder; .* give one in it"):
        output_path(Path("."), "new", "--output")  # it would be replaced, and the shell be in a folder that is gone


@pytest.mark.parametrize("name", ["manifest.json", "predictions.jsonl", "catalogue.json", "train-00000.arrow", "rejected.csv"])
def test_the_files_of_a_run_or_catalogue_are_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "catalogue.json").write_text("{}")
    (tmp_path / name).write_text('{"id": "a"}')
    for writes in ("html", "baseline", "csv"):
        with pytest.raises(UserError, match="a file of the run or catalogue in that folder"):
            output_path(tmp_path / name, writes, "--page")


def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="a device or a pipe; give the name of a file"):
            output_path(path, "html", "--html")


def test_an_earlier_page_baseline_or_table_is_written_over(tmp_path: Path) -> None:
    for name, start, writes in [
        ("a.html", (ROOT / "data/describe/page.html").read_text(), "html"),
        ("b.html", (ROOT / "eval/report/page/head.html").read_text(), "html"),
        ("old.html", (ROOT / "data/describe/page.html").read_text().replace("generator", ""), "html"),
        ("b.jsonl", '{"manifest": {"rows": 1}}\n', "baseline"),
        ("c.csv", "id,true_title,predicted_title,status_title,text\n", "csv"),
        ("empty", "", "html"),
    ]:
        (tmp_path / name).write_text(start)
        assert output_path(tmp_path / name, writes, "--html") == tmp_path / name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("<!doctype html>\n<html><title>My thesis</title>", "html"),
        ("<!doctype html>\n" + "x" * 2000 + '<meta name="generator" content="mlx-phi3v">', "html"),
        ('{"manifest": "of a cargo"}', "baseline"),
        ("id,true_label,guess\n1,a,b\n", "csv"),
    ],
)
def test_a_page_or_table_of_the_users_own_is_not_written_over(tmp_path: Path, text: str, writes: Any) -> None:
    (tmp_path / "mine").write_text(text)
    with pytest.raises(UserError, match="a file that this command did not write"):
        output_path(tmp_path / "mine", writes, "--html")


@pytest.mark.parametrize("name", ["data", "model", "adapter", "output", "trace"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nosuchuser/x", "there is no user 'nosuchuser'"),
        (os.fsdecode(b"a\xff"), "which is not utf-8 text"),
        ("x" * 300, "a name too long for a file"),
        ("x/" * 2500, "a name too long for a file"),
    ],
)
def test_a_path_that_cannot_be_is_named(name: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--{name} is .*{message}"):
        parse(CONFIGS["predict"], "python -m eval.predict", "", [f"--{name}", path])
