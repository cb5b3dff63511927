"""YAML of settings: a word means what its key's type says, and whatever cannot be read is one sentence with file and key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.ingest.ingest_config import IngestConfig
from data.ingest.mapping import FieldMapping, make_mapping
from mlx_phi3v.cli import option, own_keys, parse
from mlx_phi3v.errors import UserError
from mlx_phi3v.training.train_config import TrainConfig
from mlx_phi3v.yaml_file import read_yaml


def read(folder: Path, text: str | bytes) -> dict[str, Any]:
    path = folder / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path)


@dataclass(frozen=True)
class Typed:
    text: str = option("", help="text")
    flag: bool = option(False, help="yes or no")
    whole: int = option(0, help="a whole number")
    real: float = option(0.0, help="a number")
    path: Path = option(Path("."), help="a path")
    several: tuple[str, ...] = option((), help="words")


def typed(folder: Path, text: str) -> Typed:
    (folder / "c.yaml").write_text(text)
    return parse(Typed, "prog", "", ["--config", str(folder / "c.yaml")])


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "false", "Yes", "NO", "'off'"])
def test_yes_and_no_are_words_where_text_is_due_and_truths_where_a_bool_is(tmp_path: Path, word: str) -> None:
    plain = word.strip("'")
    assert typed(tmp_path, f"flag: {word}").flag is (plain.lower() in ("yes", "on", "true"))
    assert typed(tmp_path, f"text: {word}").text == (plain.lower() if plain.lower() in ("true", "false") else plain)


@pytest.mark.parametrize("word", ["010", "1_000", "2024-01-02", "1e3", "0x10", "1:30", "1.50", "a~x", "=", "12"])
def test_text_stays_as_it_was_written(tmp_path: Path, word: str) -> None:
    assert typed(tmp_path, f"text: {word}").text == word
    assert typed(tmp_path, f"path: {word}").path == Path(word)
    assert typed(tmp_path, f"several: [{word}, b]").several == (word, "b")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1", 1.0), ("1_000", 1000.0), (".5", 0.5), ("-2.5e+3", -2500.0), ("'3'", 3.0)]
)
def test_a_number_may_be_written_in_every_usual_way(tmp_path: Path, text: str, value: float) -> None:
    assert typed(tmp_path, f"real: {text}").real == value


BAD_VALUES = {
    "flag": ["3", "maybe", "[true]", "1.0", "0"],
    "whole": ["1.5", "x", "010", "0x10", "1:30", "yes", "true", "[1]", "{a: 1}", "2024-01-02", "1e3", "''"],
    "real": [".inf", "-.inf", ".nan", "1e400", "yes", "[1]", "2024-01-02", "9" * 390, "''"],
    "text": ["[a]", "{a: 1}"],
    "several": ["[[a]]", "{a: 1}"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values])
def test_a_value_of_another_type_is_one_sentence(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UserError) as error:
        typed(tmp_path, f"{key}: {value}")
    line = str(error.value)
    assert line.startswith(f"{key} in --config {tmp_path / 'c.yaml'} is ") and "must be" in line and "\n" not in line


WRONG: dict[str, tuple[str | bytes, str]] = {
    "twice": ("a: 1\nb: 2\na: 3", "line 3, key a: the key comes twice"),
    "twice below": ("f: {x: 1, x: 2}", "line 1, key f.x: the key comes twice"),
    "date": ("model: 2024-13-45", "key model: '2024-13-45' looks like a date and is none"),
    "int tag": ("seed: !!int x", "key seed: 'x' is no int"),
    "timestamp tag": ("seed: !!timestamp x", "key seed: 'x' is no timestamp"),
    "float tag": ("seed: !!float x", "key seed: 'x' is no float"),
    "binary tag": ("seed: !!binary x", "key seed: the tag .*binary is not read"),
    "python tag": ("seed: !!python/object/apply:os.system [ls]", "key seed: the tag .*os.system is not read"),
    "own tag": ("seed: !mine 3", "key seed: the tag !mine is not read"),
    "set": ("a: !!set {x}", "key a: the tag .*set is not read"),
    "deep flow": ("a: " + "[" * 500, "nested too deeply"),
    "deep": ("a: " + "[" * 200 + "]" * 200, "key a.* nested too deeply"),
    "itself": ("image: &x {column: *x}", "key image.column: an anchor that holds itself"),
    "list itself": ("a: &x [*x]", "an anchor that holds itself"),
    "laughs": ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi")), "more than 20,000 values"),
    "digits": ("seed: " + "9" * 5000, "key seed: a number of that many digits"),
    "surrogate": ('text: "\\ud800"', "key text: text with half a surrogate"),
    "nul": ('text: "a\\0b"', "key text: text with .*NUL"),
    "beyond unicode": ('text: "\\UFFFFFFFF"', "not valid YAML"),
    "control": (b"a: \x01", "not valid YAML"),
    "latin-1": ("a: é".encode("latin-1"), "byte 3 is not UTF-8"),
    "binary": (bytes(range(256)), "not valid YAML"),
    "open": ("a: [", "not valid YAML: .*line 1"),
    "tab": ("a:\n\tb: 1", "not valid YAML: .*line 2"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "anchor": ("a: *nowhere", "not valid YAML: .*nowhere"),
    "list": ("- a\n- b", "must hold keys and values, not a list"),
    "word": ("hello", "must hold keys and values, not a str"),
    "key of a list": ("? [a, b]\n: c", "a key must be a word"),
    "merge": ("<<: 3", "<< takes a mapping"),
    "large": ("a: 1\n" + "#" * 1_100_000, "larger than 1,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, text)
    line = str(error.value)
    assert line.startswith(f"--config {tmp_path / 'c.yaml'}") and "\n" not in line and line.isprintable() and len(line) < 400


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path, message in [(tmp_path / "none", "does not exist"), (tmp_path, "cannot be read: Is a directory")]:
        with pytest.raises(UserError, match=f"^--recipe x {message}"):
            read_yaml(path, "--recipe x")


def test_a_mapping_may_take_over_another(tmp_path: Path) -> None:
    text = "base: &b {a: 1, b: 2}\none: {<<: *b, b: 3}\ntwo: {b: 4, <<: [*b, {c: 5}]}"
    found = read(tmp_path, text)
    assert found["one"] == {"a": 1, "b": 3} and found["two"] == {"a": 1, "b": 4, "c": 5}


# The YAML of an ingest: fields and what is beside them.
def mapped(folder: Path, text: str) -> FieldMapping:
    (folder / "c.yaml").write_text(text)
    flags = ["s.csv", "-o", str(folder / "out"), "--config", str(folder / "c.yaml")]
    return make_mapping(
        parse(IngestConfig, "python -m data.ingest", "", flags).mapping_keys(), ["Title", "010", "Kind"], "s.csv"
    )


def test_required_is_true_or_false(tmp_path: Path) -> None:
    for word in ("false", "False"):
        assert not mapped(tmp_path, f"fields: {{title: {{column: Title, required: {word}}}}}").fields[0].required
    assert mapped(tmp_path, "fields: {title: {column: Title, required: true}}").fields[0].required


@pytest.mark.parametrize("word", ["no", "off", "on", "yes", "'false'", "0"])
def test_another_word_for_required_is_refused(tmp_path: Path, word: str) -> None:
    """In YAML 1.1 `no` is false, in 1.2 it is a word: neither is guessed."""
    with pytest.raises(UserError, match=r"c\.yaml: field 'title' has required .*write required: true or required: false"):
        mapped(tmp_path, f"fields: {{title: {{column: Title, required: {word}}}}}")


def test_a_column_of_digits_is_found(tmp_path: Path) -> None:
    assert mapped(tmp_path, "fields: {title: 010}").fields[0].column == "010"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fields: [Title]\ntemplate: 'T: {Title}'", "fields"),
        ("fields: Title", "fields"),
        ("fields: {title: [Title]}", "field 'title'"),
        ("fields: {title: {column: [a]}}", "field 'title'"),
        ("fields: {title: {column: {a: b}}}", "field 'title'"),
        ("fields: {title: {colum: Title}}", "field 'title'"),
        ("fields: {title: {column: Title, kind: [text]}}", "field 'title'"),
        ("fields: {title: {column: Title, kind: 3}}", "field 'title'"),
        ("fields: {title: {column: Title, required: maybe}}", "required 'maybe'"),
        ("fields: {title: {column: Title, required: }}", "required None"),
        ("fields: {title: {column: Title, required: 2}}", "required 2"),
        ("fields: {price: {column: Title, kind: number, currency: 5}}", "currency 5"),
        ("fields: {price: {column: Title, kind: number, currency: [USD]}}", "currency"),
        ("fields: {price: {column: Title, kind: number, decimal: x}}", "decimal"),
        ("fields: {_row: {column: Title}}", "'_row'"),
        ("fields: {id: {column: Title}}", "'id'"),
        ("fields: {'a b': {column: Title}}", "'a b'"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {title'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {title!r:>10}'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {title:5}'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {name}'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {title} end'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {title[0]}'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: 'Title: {}'", "template"),
        ("fields: {title: {column: Title}}\ntemplate: [a]", "template"),
        ("fields: {title: {column: Title}}\nimage: {column: {a: b}}", "image"),
        ("fields: {title: {column: Title}}\nimage: {colum: a}", "image"),
        ("fields: {title: {column: Title}}\nimage: [[a]]", "image"),
        ("fields: {title: {column: Title}}\ncode: true", "code"),
        ("fields: {title: {column: Title}}\nsplit: [a, {b: c}]", "split"),
        ("fields: {title: {column: Title}}\nprompt: [a]", "prompt"),
        ("fields: {title: {column: Title}}\ncurrency: {a: b}", "currency"),
        ("fields: {title: {column: Title}}\nallow_private: 5", "allow_private"),
        ("fields: {title: {column: Title}}\ndelimiter: ab", "delimiter"),
        ("fields: {title: {column: Title}}\nprocesses: .inf", "processes"),
    ],
)
def test_a_mistake_in_the_fields_names_the_file_and_the_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        mapped(tmp_path, text)
    line = str(error.value)
    assert str(tmp_path / "c.yaml") in line and named in line and "\n" not in line


WORDS = st.sampled_from(
    ["yes", "no", "~", "", "1e400", ".nan", "-1", "010", "2024-99-99", "{title}", "a: b", "*x", "!!int 3", "\\", "'"]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS)
KEYS = st.sampled_from(
    ["fields", "image", "template", "currency", "code", "split", "title", "column", "kind", "required", "decimal", "seed"]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def ends_well(folder: Path, command: str, text: bytes) -> None:
    """Settings or a UserError in one line; anything else fails the test."""
    path = folder / "c.yaml"
    path.write_bytes(text)
    try:
        if command == "ingest":
            flags = ["s.csv", "-o", str(folder / "out"), "--config", str(path)]
            keys = parse(IngestConfig, "python -m data.ingest", "", flags).mapping_keys()
            make_mapping(keys, ["Title"], "s.csv")
        else:
            own_keys(read_yaml(path), TrainConfig, "train", "x")
            parse(
                TrainConfig,
                "python -m mlx_phi3v.train",
                "",
                ["--config", str(path), "--data", "d", "--output", str(folder / "o")],
            )
    except UserError as error:
        assert len(str(error).replace(str(folder), "")) < 2000


@settings(max_examples=150)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
@example({"fields": {"title": {"column": "Title", "required": {}}}})
def test_any_mapping_is_read_or_answered(tmp_path: Path, value: dict[str, Any]) -> None:
    import yaml

    ends_well(tmp_path, "ingest", yaml.safe_dump(value, allow_unicode=True).encode())


TRAIN = (
    b'model: tiny\nepochs: 2.5\nseed: 3\nadam_betas: [0.9, 0.95]\nvision: off\njson: true\nlora: &a {r: 3}\nlabel: "x\\u1234"\n'
)


@settings(max_examples=150)
@given(
    st.integers(0, len(TRAIN)),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=6), WORDS.map(str.encode), st.sampled_from([b"[" * 400, b"&x ", b"*x", b"<<: ", b"? ", b"\n- "])
    ),
)
def test_any_change_to_a_file_is_read_or_answered(tmp_path: Path, place: int, length: int, new: bytes) -> None:
    ends_well(tmp_path, "train", TRAIN[:place] + new + TRAIN[place + length :])
