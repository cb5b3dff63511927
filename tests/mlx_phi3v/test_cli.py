"""One dataclass gives flags, YAML keys and help; every mistake is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_phi3v.cli import build, option, parse, read_yaml
from mlx_phi3v.errors import UserError


@dataclass(frozen=True)
class Example:
    data: Path = option(help="where")
    rate: float = option(1e-4, help="how fast")
    max_steps: int | None = option(None, help="how long", flags=("-n",))
    kind: str = option("mlx", help="which", choices=("mlx", "torch"))
    names: tuple[str, ...] = option((), help="several")
    quiet: bool = option(False, help="say less")


def read(*argv: str, yaml: str | None = None, folder: Path | None = None) -> Example:
    flags = list(argv)
    if yaml is not None:
        assert folder is not None
        (folder / "run.yaml").write_text(yaml)
        flags += ["--config", str(folder / "run.yaml")]
    return parse(Example, "prog", "What it does.", flags)


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    settings = read("--rate", "3", yaml="data: x\nrate: 2e-4\nmax-steps: 5\nnames: [a, b]\nquiet: true", folder=tmp_path)
    assert settings == Example(Path("x"), 3.0, 5, "mlx", ("a", "b"), True)
    assert read("--data", "x", "--no-quiet", "-n", "7", yaml="quiet: true", folder=tmp_path) == Example(Path("x"), max_steps=7)


def test_both_spellings_of_a_flag_are_read() -> None:
    assert read("--data", "x", "--max_steps", "2").max_steps == read("--data", "x", "--max-steps", "2").max_steps == 2


def test_a_number_as_yaml_reads_it_is_a_number(tmp_path: Path) -> None:
    assert read("--data", "x", yaml="rate: 1e-4", folder=tmp_path).rate == 1e-4  # text to YAML 1.1
    assert read("--data", "x", yaml="rate: 1", folder=tmp_path).rate == 1.0


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("rat: 1", "unknown key 'rat' in --config .*; did you mean 'rate'"),
        ("wholly_other: 1", "unknown key 'wholly_other' .* known keys: data, kind"),
        ("rate: fast", "rate in --config .* is 'fast'; it must be a number"),
        ("max_steps: 1.5", "max_steps .* must be a whole number"),
        ("max_steps: true", "max_steps .* must be a whole number"),
        ("quiet: 3", "quiet .* must be true or false"),
        ("kind: cuda", "kind .* is 'cuda'; choose one of mlx, torch"),
        ("rate:", "rate .* is empty"),
        ("- a\n- b", "must hold keys and values, not a list"),
        ("a: [", "not valid YAML"),
        ("kind: {a: 1}", "kind .* must be text"),
        ("names: [[a]]", "names .* must be text"),
    ],
)
def test_a_mistake_in_the_yaml_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read("--data", "x", yaml=yaml, folder=tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_setting_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data is required"):
        read()
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        parse(Example, "prog", "", ["--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--rate", "fast"], "--rate"), (["--kind", "cuda"], "mlx"), (["--rat3", "1"], "--rat3"), (["--rate"], "--rate")],
)
def test_a_wrong_flag_is_named_in_one_line(flags: list[str], named: str) -> None:
    with pytest.raises(UserError) as error:
        read("--data", "x", *flags)
    assert named in str(error.value) and "\n" not in str(error.value) and "--help" in str(error.value)


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(
        word in text for word in ("--data", "(required)", "--max-steps", "0.0001", "{mlx,torch}", "--no-quiet", "--config")
    )


def test_built_settings_are_checked_like_read_ones() -> None:
    assert build(Example, {"data": "x"}, "a test").data == Path("x")
    with pytest.raises(UserError, match="unknown key 'datum' in a test"):
        build(Example, {"datum": "x"}, "a test")


def test_off_in_yaml_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("vision: off\nlanguage: on\njson: true\nresume: False\n")
    assert read_yaml(tmp_path / "run.yaml") == {"vision": "off", "language": "on", "json": True, "resume": False}
