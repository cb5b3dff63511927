"""Flags from frozen dataclasses: how a field becomes a flag, its aliases and its line of help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .aliases import aliases, flag, refusals
from .errors import UserError
from .outputs import Writes
from .ranges import Range


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    positional: bool = False,
    metavar: str | None = None,
    heading: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    writes: Writes | None = None,
    path: bool = False,
    many: bool = False,
    implied: Any = None,
) -> Any:
    """A dataclass field that is also a flag, or the plain argument of the command where `positional`.

    No default means the flag or key is required. A positional tuple takes any number of arguments. `heading` starts a
    group of flags in --help: this field and those after it. `metavar` is what --help calls the value.

    `at_least`, `above`, `at_most` and `below` are the range of a number, or of each of several (`mlx_phi3v.ranges`);
    `writes` says what a command writes at this path (`mlx_phi3v.outputs`). `path`: a text that may be a path. `many`: a
    value of any type (`Any`) of which the flag takes several. `implied`: what the flag alone, without a number, means.
    """
    metadata: dict[str, Any] = {"help": help, "choices": choices, "flags": tuple(flags), "positional": positional}
    metadata |= {"metavar": metavar, "heading": heading, "writes": writes, "path": path, "many": many}
    metadata["implied"] = implied
    if any(end is not None for end in (at_least, above, at_most, below)):
        metadata["range"] = Range(at_least, above, at_most, below)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """A field's annotation -> (type without None, whether it is a sequence)."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return plain_type(inner[0])
    if origin in (tuple, list):
        return typing.get_args(annotation)[0], True
    if origin is typing.Literal:
        return str, False
    return annotation, False


_METAVARS = {int: "N", float: "X", Path: "PATH"}  # what --help calls a value; a text goes by its field's name


def _metavar(field: dataclasses.Field[Any], kind: Any) -> str:
    return str(field.metadata["metavar"] or _METAVARS.get(kind) or field.name.upper())


def own_flag(field: dataclasses.Field[Any]) -> str:
    """max_steps -> --max-steps, r -> --r."""
    return "--" + field.name.replace("_", "-")


def required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _help(field: dataclasses.Field[Any], also: Sequence[str]) -> str:
    """The line of help, with the default and what other tools call the flag."""
    text: str = field.metadata["help"].replace("%", "%%")
    if "range" in field.metadata:
        text += f"; {field.metadata['range']}"
    if required(field):
        text += " (required)"
    elif field.default is not dataclasses.MISSING and field.default is not False and field.default not in (None, "", ()):
        text += f" (default: {field.default})"
    return text + (f" (also {', '.join(map(flag, also))})" if also else "")


def add_arguments(parser: argparse.ArgumentParser, cls: type, command: str = "") -> None:
    """Add a flag for every field of the dataclass `cls`; unset flags do not appear in the namespace.

    Aliases of other tools, and underscores for hyphens, are read but not listed one by one in --help.
    """
    hints = type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if "help" in field.metadata]
    known = aliases(command, {field.name for field in fields})
    plain = any(field.metadata["positional"] for field in fields)
    group: argparse._ActionsContainer = parser
    for field in fields:
        kind, many = plain_type(hints[field.name])
        also = [name for name, meant in known.items() if meant == field.name]
        common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field, also)}
        if field.metadata["heading"]:
            group = parser.add_argument_group(field.metadata["heading"])
        if field.metadata["positional"]:
            common |= {"type": kind, "metavar": _metavar(field, str)}
            parser.add_argument(field.name, nargs="*" if many else "?", **common)
            continue
        names = [*field.metadata["flags"], own_flag(field)]
        hidden = [spelling for name in also for spelling in _spellings(name)] + ["--" + field.name]
        hidden = [name for name in dict.fromkeys(hidden) if name not in names]
        common["dest"] = field.name
        if kind is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, **common)
            # `--gradient_checkpointing True`, as with transformers; next to plain arguments it would be ambiguous.
            valued = {"nargs": "?", "const": True, "type": _truth}
            common |= {"action": argparse.BooleanOptionalAction} if plain else valued
        else:
            common |= _value(field, kind, many)
            group.add_argument(*names, **common)
        if hidden:
            parser.add_argument(*hidden, **common | {"help": argparse.SUPPRESS})
    _add_refusals(parser, command, {field.name for field in fields})


def _value(field: dataclasses.Field[Any], kind: Any, many: bool) -> dict[str, Any]:
    """How a flag's value is read and what --help calls it."""
    # A mapping in YAML is plain text as a flag.
    how: dict[str, Any] = {"type": str if kind is Any else kind, "choices": field.metadata["choices"]}
    if many or field.metadata["many"]:  # `--field A --field B` and `--field A B` are the same
        how |= {"nargs": "+", "action": "extend"}
    if field.metadata["implied"] is not None:
        how |= {"nargs": "?", "const": field.metadata["implied"]}
    return how | {"metavar": None if field.metadata["choices"] else _metavar(field, kind)}


def _add_refusals(parser: argparse.ArgumentParser, command: str, known: set[str]) -> None:
    """The flags of other tools that mean nothing here, each with its answer."""
    for name, answer in refusals(command, known).items():
        hide: dict[str, Any] = {"dest": "refused", "nargs": "*", "help": argparse.SUPPRESS}
        parser.add_argument(*_spellings(name), action=_Refuse, const=answer, **hide)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys([flag(name), "--" + name])) if len(name) > 1 else [flag(name)]


def truth(value: Any) -> bool | None:
    """What true, false, yes, no, on and off mean, as words or as YAML reads them; None for anything else."""
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else None
    return word in ("true", "yes", "on") if word in ("true", "yes", "on", "false", "no", "off") else None


def _truth(text: str) -> bool:
    found = truth(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return found


class _Refuse(argparse.Action):
    """Collects the answers to flags of other tools that mean nothing here."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        refused = getattr(namespace, "refused", None) or []
        namespace.refused = [*refused, self.const]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and no line that ends within a flag."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """One sentence, as for every other mistake, instead of the whole usage."""
        raise UserError(f"{message}; see {self.prog} --help")

    def read(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The flags given, by field; plain arguments may stand between flags. Raises UserError for unknown ones."""
        found, unknown = self.parse_known_intermixed_args(self._with_implied(sys.argv[1:] if argv is None else argv))
        if unknown:
            names = [name for action in self._actions for name in action.option_strings if action.help != argparse.SUPPRESS]
            close = difflib.get_close_matches(unknown[0].partition("=")[0], names, n=1)
            hint = f"; did you mean {close[0]}?" if close and unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return vars(found)

    def _with_implied(self, argv: Sequence[str]) -> list[str]:
        """`--dry-run shop.csv` as `--dry-run 20 shop.csv`: what is no number is a plain argument."""
        implied = {name: action.const for action in self._actions if action.nargs == "?" and action.type is int
                   for name in action.option_strings if action.const is not None}  # fmt: skip
        words: list[str] = []
        for word, following in zip(argv, [*argv[1:], None]):
            words.append(word)
            if word in implied and following is not None and not following.lstrip("-").isdecimal():
                words.append(str(implied[word]))
        return words


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields; Python reads the annotations anew each time."""
    return typing.get_type_hints(cls)


def usage(cls: type) -> str:
    """The plain arguments and the required flags, for the first line of --help."""
    text = ""
    for field in dataclasses.fields(cls):
        kind, many = plain_type(type_hints(cls)[field.name])
        if field.metadata.get("positional"):
            text += f"{_metavar(field, str)} {'... ' if many else ''}"
        elif "help" in field.metadata and required(field):
            text += f"{own_flag(field)} {_metavar(field, kind)} "
    return text
