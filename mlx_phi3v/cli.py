"""Commands from frozen dataclasses: one field is one flag, one YAML key and one line of help.

Every command reads its settings by `parse`. So each takes `--config FILE.yaml`, the aliases of `mlx_phi3v.aliases`, and
use in help and messages the name it was typed by: `mlx_phi3v.train` or `python -m mlx_phi3v.train`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from .aliases import aliases, refusals
from .commands import as_typed, console_name
from .errors import UserError
from .flags import Formatter, Parser, add_arguments, option, own_flag, plain_type, required, usage

__all__ = ["build", "option", "own_keys", "parse", "read_yaml", "unknown_key"]

T = TypeVar("T")


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def unknown_key(key: str, known: Sequence[str], where: str) -> UserError:
    """The error for a key that is not one of `known`, with the nearest known one."""
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"
    return UserError(f"unknown key {key!r} in {where}{hint}")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError where it does not."""
    import yaml

    class Loader(yaml.SafeLoader):
        """As in YAML 1.2, on, off, yes and no are text: `vision: off` gives "off"."""

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
    """Make the dataclass `cls` from `values`, checking names and types; `where` names their source.

    Raises UserError for an unknown key, a value of the wrong type or out of its choices, and a required key without value.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
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
        if required(field) and checked.get(name) in (None, ()):
            raise UserError(_missing(field))
    return cls(**checked)


def _missing(field: dataclasses.Field[Any]) -> str:
    if field.metadata.get("positional"):
        return f"{field.metadata['metavar'] or field.name.upper()} is required: {field.metadata['help']}"
    return f"{own_flag(field)} is required (as a flag or as the key {field.name!r} of --config)"


def _coerce(name: str, value: Any, annotation: Any, where: str) -> Any:
    if value is None:
        if _optional(annotation):
            return None
        raise UserError(f"{name} in {where} is empty; give it a value or remove the key")
    kind, many = plain_type(annotation)
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


def own_keys(values: Mapping[str, Any], cls: type, command: str, where: str) -> dict[str, Any]:
    """The keys of a YAML file of `command` by their own names: aliases replaced, - as _.

    Raises UserError if two keys mean the same setting, or if one is a flag of another tool without a counterpart.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    known, refused = aliases(command, fields), refusals(command, fields)
    own: dict[str, Any] = {}
    came_from: dict[str, str] = {}
    names = {key: key.replace("-", "_") for key in values}
    unwanted = [refused[name] for name in names.values() if name in refused]
    if unwanted:
        raise UserError(f"{where}: {'; '.join(unwanted)}")
    for key, value in values.items():
        name = known.get(names[key], names[key])
        if name in own:
            raise UserError(f"{came_from[name]!r} and {key!r} in {where} are the same setting; remove one")
        own[name], came_from[name] = value, key
    return own


def parse(cls: type[T], prog: str, description: str, argv: Sequence[str] | None = None) -> T:
    """Read `cls` from flags over `--config file.yaml` over the defaults. `prog` is "python -m MODULE".

    Raises UserError for an unknown flag or key and for a value of the wrong type.
    """
    console = console_name(prog.removeprefix("python -m "))
    command = console.rpartition(".")[2]
    parser = Parser(
        prog=as_typed(prog, console),
        description=as_typed(description, console),
        formatter_class=Formatter,
    )
    parser.usage = f"%(prog)s {usage(cls)}[flags]"
    parser.add_argument("-c", "--config", type=Path, metavar="FILE.yaml", help="settings as YAML; flags win over it")
    add_arguments(parser, cls, command)
    flags = parser.read(argv)
    refused = flags.pop("refused", None)
    if refused:
        raise UserError(f"{'; '.join(refused)}; see {parser.prog} --help")
    config = flags.pop("config", None)
    where = f"--config {config}" if config else "the flags"
    values = own_keys(read_yaml(config), cls, command, where) if config else {}
    return build(cls, {**values, **flags}, where)
