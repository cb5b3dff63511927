"""Commands from frozen dataclasses: one field is one flag, one YAML key and one line of help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .errors import UserError

T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    positional: bool = False,
) -> Any:
    """A dataclass field that is also a flag, or the plain argument of the command where `positional`.

    No default means the flag or key is required.
    """
    metadata = {"help": help, "choices": choices, "flags": tuple(flags), "positional": positional}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _plain_type(annotation: Any) -> tuple[Any, bool]:
    """(type without None, whether it is a sequence)."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _plain_type(inner[0])
    if origin in (tuple, list):
        return typing.get_args(annotation)[0], True
    if origin is typing.Literal:
        return str, False
    return annotation, False


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add a flag for every field of the dataclass `cls`; unset flags do not appear in the namespace."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        kind, many = _plain_type(hints[field.name])
        kind = str if kind is Any else kind  # a mapping in YAML, plain text as a flag
        name = "--" + field.name.replace("_", "-")
        aliases = ["--" + field.name] if "_" in field.name else []
        text = field.metadata["help"].replace("%", "%%")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required:
            text += " (required)"
        elif field.default is not dataclasses.MISSING and field.default not in (None, "", ()):
            text += f" (default: {field.default})"
        common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        names = [*field.metadata["flags"], name, *aliases]
        if field.metadata["positional"]:
            del common["dest"]
            parser.add_argument(field.name, nargs="?", type=kind, metavar=field.name.upper(), **common)
        elif kind is bool:
            parser.add_argument(*field.metadata["flags"], name, action=argparse.BooleanOptionalAction, **common)
        elif many:
            parser.add_argument(*names, nargs="+", type=kind, choices=field.metadata["choices"], **common)
        else:
            parser.add_argument(*names, type=kind, choices=field.metadata["choices"], **common)


def unknown_key(key: str, known: Sequence[str], where: str) -> UserError:
    """The error for a key that is not one of `known`, with the nearest known one."""
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"
    return UserError(f"unknown key {key!r} in {where}{hint}")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError where it does not."""
    import yaml

    class Loader(yaml.SafeLoader):
        """As YAML 1.2 has it, on, off, yes and no are words: `vision: off` says off."""

    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    tag = "tag:yaml.org,2002:bool"
    Loader.yaml_implicit_resolvers = {first: [r for r in found if r[0] != tag] for first, found in resolvers.items()}
    Loader.add_implicit_resolver(tag, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise UserError(f"--config {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"--config {path} must hold keys and values, not a {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make the dataclass `cls` from `values`, checking names and types; `where` names their source."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise unknown_key(key, list(fields), where)
        checked[name] = _coerce(name, value, hints[name], where)
        choices = fields[name].metadata.get("choices")
        chosen = checked[name] if isinstance(checked[name], tuple) else (checked[name],)
        if choices and value is not None and any(item not in choices for item in chosen):
            raise UserError(f"{name} in {where} is {value!r}; choose one of {', '.join(choices)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in checked:
            raise UserError(f"--{name.replace('_', '-')} is required (as a flag or as the key {name!r} of --config)")
    return cls(**checked)


def _coerce(name: str, value: Any, annotation: Any, where: str) -> Any:
    if value is None:
        if _optional(annotation):
            return None
        raise UserError(f"{name} in {where} is empty; give it a value or remove the key")
    kind, many = _plain_type(annotation)
    if many:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(name, item, kind, where) for item in items)
    if kind in (Any, dict) or typing.get_origin(kind) is dict:
        return value
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    elif kind is str and isinstance(value, (str, int, float)):
        return str(value)
    elif kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name} in {where} is {value!r}; it must be {_KIND_NAMES.get(kind, kind.__name__)}")


_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, as for every other mistake, instead of the whole usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def parse(cls: type[T], prog: str, description: str, argv: Sequence[str] | None = None) -> T:
    """Read `cls` from flags over `--config file.yaml` over the defaults.

    Raises UserError for an unknown flag or key and for a value of the wrong type.
    """
    parser = _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings as YAML; flags win over it")
    add_arguments(parser, cls)
    flags = vars(parser.parse_args(argv))
    config = flags.pop("config", None)
    values = {key.replace("-", "_"): item for key, item in (read_yaml(config) if config else {}).items()}
    where = f"--config {config}" if config else "the flags"
    return build(cls, {**values, **flags}, where)
