"""Commands from frozen dataclasses: one field is one flag, one YAML key and one line of help.

Every command reads its settings by `parse`. So each takes `--config FILE.yaml`, the aliases of `mlx_phi3v.aliases`, and
use in help and messages the name it was typed by: `mlx_phi3v.train` or `python -m mlx_phi3v.train`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from .aliases import aliases, refusals
from .commands import as_typed, console_name
from .errors import UserError
from .flags import Formatter, Parser, add_arguments, option, own_flag, plain_type, required, truth, type_hints, usage
from .outputs import output_path
from .ranges import check_ranges, check_value, short

__all__ = ["build", "check_ranges", "option", "own_keys", "parse", "read_yaml", "unknown_key"]

T = TypeVar("T")
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, letters: what Linux and macOS take, or a little more


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def unknown_key(key: str, known: Sequence[str], where: str) -> UserError:
    """The error for a key that is not one of `known`, with the nearest known one."""
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"
    return UserError(f"unknown key {key!r} in {where}{hint}")


def read_yaml(path: Path | str, what: str | None = None) -> dict[str, Any]:
    """See `mlx_phi3v.yaml_file`, which is imported only where there is such a file."""
    from . import yaml_file

    return yaml_file.read_yaml(path, what)


def build(cls: type[T], values: Mapping[str, Any], where: str, flags: Collection[str] = ()) -> T:
    """Make the dataclass `cls` from `values`, checking names, types and ranges, and where it writes.

    `where` names their source in messages, but for those whose names are in `flags`. A dataclass with a method
    `check_values(where)` is asked too.

    Raises UserError for an unknown key, a value of the wrong type or out of its choices or range, a path where nothing
    can be written, and a required key without value.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    hints = type_hints(cast(Any, cls))
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise unknown_key(key, list(fields), where)
        said = own_flag(fields[name]) if name in flags and "help" in fields[name].metadata else f"{name} in {where}"
        checked[name] = _checked(fields[name], value, hints[name], said)
    for name, field in fields.items():
        if required(field) and checked.get(name) in (None, ()):
            raise UserError(_missing(field))
    made = cls(**checked)
    if isinstance(made, ChecksValues):
        made.check_values(where)
    return made


@typing.runtime_checkable
class ChecksValues(typing.Protocol):
    """Settings with more to check than each value's type and range."""

    def check_values(self, where: str) -> None:
        """Raise UserError, with `where` in its sentence, for values that make no sense."""


def _checked(field: dataclasses.Field[Any], value: Any, annotation: Any, said: str) -> Any:
    """A value of the field's type, choices and range. `said` is what messages call it."""
    made = _coerce(value, annotation, said)
    choices = field.metadata.get("choices")
    if choices and made is not None and any(item not in choices for item in (made if isinstance(made, tuple) else (made,))):
        raise UserError(f"{said} is {short(value)}; choose one of {', '.join(choices)}")
    if made is None:
        return made
    check_value(field, made, said)
    if field.metadata.get("path"):
        for item in made if isinstance(made, tuple) else (made,):
            _as_path(Path(item), said)
    writes = field.metadata.get("writes")
    return output_path(made, writes, said) if writes else made


def _missing(field: dataclasses.Field[Any]) -> str:
    if field.metadata.get("positional"):
        return f"{field.metadata['metavar'] or field.name.upper()} is required: {field.metadata['help']}"
    return f"{own_flag(field)} is required (as a flag or as the key {field.name!r} of --config)"


def _coerce(value: Any, annotation: Any, said: str) -> Any:
    if value is None:
        if _optional(annotation):
            return None
        raise UserError(f"{said} is empty; give it a value or remove the key")
    kind, many = plain_type(annotation)
    if many:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(item, kind, said) for item in items)
    if kind is Any:
        return value
    if kind is dict or typing.get_origin(kind) is dict:
        if isinstance(value, dict):
            return value
        raise UserError(f"{said} is {short(value)}; it must hold keys and values")
    made = _one(value, kind, said)
    if made is None:
        raise UserError(f"{said} is {short(value)}; it must be {_KIND_NAMES.get(kind, kind.__name__)}")
    return made


def _one(value: Any, kind: Any, said: str) -> Any:
    """One value as `kind`, decided by the kind: off is a word where text is due, and false where a bool is. None if none."""
    if kind is bool:
        return truth(value)
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    if kind is int:
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
    if kind in (str, Path) and isinstance(value, (str, int, float, Path)):
        text = str(value).lower() if isinstance(value, bool) else getattr(value, "text", str(value))
        return (
            _as_path(value if isinstance(value, Path) else Path(_plain(text, said)), said)
            if kind is Path
            else _plain(text, said)
        )
    return value if isinstance(kind, type) and isinstance(value, kind) else None


def _plain(text: str, said: str) -> str:
    """The text. Raises UserError where it is not Unicode: it could be written into no file of a run."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{said} is {short(text)}, which is not {sys.getfilesystemencoding()} text; rename it")
    return text


def _as_path(path: Path, said: str) -> Path:
    """The path, its ~ replaced. Raises UserError for names that no file system takes."""
    _plain(str(path), said)
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts) or len(str(path)) > _LONGEST_PATH:
        raise UserError(f"{said} is {short(str(path))}, a name too long for a file; give a shorter one")
    try:
        return path.expanduser()
    except RuntimeError:
        user = path.parts[0]
        raise UserError(
            f"{said} is {short(str(path))}, but there is no user {user[1:]!r}; write ./{user} for that name"
        ) from None


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
    return build(cls, {**values, **flags}, where, flags)
