"""YAML files of settings, read without surprises.

Values are made here, not by PyYAML's constructors: a word stays a word (`off`, `no`, `2024-01-02`, `010`), so that the
type declared for a key decides what it means. Keys may not come twice, an anchor may not hold itself, and of tags only
the plain ones are read.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any, cast

import yaml

from .errors import UserError, shown

_MOST_BYTES = 1_000_000
_MOST_DEPTH = 30
_MOST_VALUES = 20_000  # with every alias counted as what it stands for
_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = ("", "~", "null", "Null", "NULL")
_MOST_DIGITS = 400  # no finite float has more; Python itself refuses 4,300


class Whole(int):
    """A whole number with the text it was written as, for keys that are text."""

    text: str


class Real(float):
    """A number with the text it was written as."""

    text: str


def read_yaml(path: Path | str, what: str | None = None) -> dict[str, Any]:
    """A YAML file that holds a mapping. `what` names it in messages ("--config FILE").

    Raises UserError where it is missing or unreadable, is no YAML, or holds what settings cannot be.
    """
    what = what or f"--config {path}"
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(f"{what} is larger than {_MOST_BYTES:,} bytes, so it is no file of settings")
        node = yaml.compose(data.decode("utf-8-sig"), yaml.SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{what} does not exist") from None
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deeply; settings need {_MOST_DEPTH} levels at most") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not valid YAML: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{what} is not valid YAML: {error.problem}{_place(error.problem_mark)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode
        raise UserError(f"{what} is not valid YAML: {shown(str(error))}") from None
    value = _Reader(what).value(node, ()) if node else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{what} must hold keys and values, not a {type(value).__name__}")
    return value


def _place(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


class _Reader:
    """Makes values of the nodes of one file."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.open: set[int] = set()
        self.left = _MOST_VALUES

    def error(self, node: yaml.Node, keys: tuple[str, ...], problem: str) -> UserError:
        key = ".".join(keys[:5])
        return UserError(f"{self.what}, line {node.start_mark.line + 1}{f', key {shown(key)}' if key else ''}: {problem}")

    def value(self, node: yaml.Node, keys: tuple[str, ...]) -> Any:
        """The value of a node; `keys` lead to it."""
        self.left -= 1
        if self.left < 0:
            raise self.error(node, keys, f"more than {_MOST_VALUES:,} values; settings are fewer")
        if id(node) in self.open:
            raise self.error(node, keys, "an anchor that holds itself; write the value out")
        if len(keys) > _MOST_DEPTH:
            raise self.error(node, keys, f"nested too deeply; settings need {_MOST_DEPTH} levels at most")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, keys)
            if isinstance(node, yaml.SequenceNode):
                self.plain_tag(node, keys, "seq")
                return [self.value(item, (*keys, str(i))) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self.scalar(node, keys)
        finally:
            self.open.discard(id(node))

    def plain_tag(self, node: yaml.Node, keys: tuple[str, ...], *known: str) -> str:
        kind = str(node.tag).removeprefix(_TAG)
        if kind not in known:
            raise self.error(node, keys, f"the tag {shown(node.tag)} is not read; write the value without a tag")
        return kind

    def mapping(self, node: yaml.MappingNode, keys: tuple[str, ...]) -> dict[str, Any]:
        """Keys as text, each once; `<<` takes the keys of other mappings that are not there."""
        self.plain_tag(node, keys, "map")
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, keys, "a key must be a word, not a list or mapping")
            key = self.text(key_node, keys)
            value = self.value(value_node, (*keys, key))
            if key_node.tag == _TAG + "merge":
                for item in value if isinstance(value, list) else [value]:
                    if not isinstance(item, dict):
                        raise self.error(value_node, (*keys, key), "<< takes a mapping")
                    merged = item | merged
                continue
            if key in found:
                raise self.error(key_node, (*keys, key), "the key comes twice; remove one of the two")
            found[key] = value
        return merged | found

    def text(self, node: yaml.ScalarNode, keys: tuple[str, ...]) -> str:
        text = str(node.value)
        if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in text):
            raise self.error(node, keys, "text with half a surrogate pair or a NUL; remove it")
        return text

    def scalar(self, node: yaml.ScalarNode, keys: tuple[str, ...]) -> Any:
        """A word as text, and only what is surely a number, true, false or nothing as that."""
        text = self.text(node, keys)
        kinds = ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
        kind = self.plain_tag(node, keys, *kinds)
        if node.style is not None:  # quoted or a block: text, as it says, unless a tag says otherwise
            kind = kind if kind == "str" or _explicit(node) else "str"
        if kind == "str":
            # PyYAML takes 1e-4 for text; written without quotes, it is a number.
            plain = node.style is None and _FLOAT.fullmatch(text) and not _explicit(node)
            return _real(text) if plain else text
        return self.resolved(node, keys, kind, text)

    def resolved(self, node: yaml.ScalarNode, keys: tuple[str, ...], kind: str, text: str) -> Any:
        if kind == "null" and text in _NULL:
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in ("int", "float") and len(text) > _MOST_DIGITS:
            raise self.error(node, keys, "a number of that many digits; write a smaller one")
        if kind in ("int", "float") and _INT.fullmatch(text):
            whole = Whole(text.replace("_", ""))
            whole.text = text
            return whole
        if kind == "float" and _FLOAT.fullmatch(text):
            return _real(text)
        if kind == "timestamp" and not _explicit(node) and not _is_date(text):
            raise self.error(node, keys, f"{shown(text)!r} looks like a date and is none; put it in quotes if it is a name")
        if _explicit(node) and kind != "bool":
            raise self.error(node, keys, f"{shown(text)!r} is no {kind}, as its tag says; write it without a tag")
        return text  # yes, no, on, off, a date, 010: words, unless the key's type says otherwise


def _is_date(text: str) -> bool:
    try:
        datetime.date(*map(int, re.findall("[0-9]+", text)[:3]))
    except ValueError:
        return False
    return True


def _real(text: str) -> Real:
    plain = text.replace("_", "").lower()
    real = Real(plain.replace(".inf", "inf").replace(".nan", "nan") if plain.lstrip("+-") in (".inf", ".nan") else plain)
    real.text = text
    return real


def _explicit(node: yaml.ScalarNode) -> bool:
    """Whether a tag was written, rather than found from the text."""
    found = cast(Any, yaml.SafeLoader("")).resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
    return bool(found != node.tag)
