"""JSON from outside: parsed strictly, then checked once against a declared shape; and the names of files in it."""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn, TypeVar

import msgspec

from .errors import UserError

MOST_BYTES = 64 << 20  # of a document: parsed it takes some twenty times as much memory
MOST_DEPTH = 64
MOST_DIGITS = 100  # of a whole number; the state of a random generator has 39

Shape = TypeVar("Shape")

_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "an object", "null": "null",
}  # fmt: skip


class _Fault:
    """Stands in a parsed document for a value that is refused; `wanted` says what belongs there."""

    def __init__(self, found: str, wanted: str) -> None:
        self.found, self.wanted = found, wanted


def read_json(path: Path | str, what: str) -> Any:
    """Read a JSON file; `what` names it in the error ("model configuration").

    Raises UserError where the file is missing, unreadable, too large or no JSON by the letter: what is not UTF-8, a key
    that stands twice, NaN and infinite numbers, whole numbers of more than MOST_DIGITS digits, more than MOST_DEPTH levels.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to read a pipe or a device might never end
            raise UserError(f"{what} {path} cannot be read: it is not a file")
        if status.st_size > MOST_BYTES:
            raise UserError(f"{what} {path} cannot be read: it has {status.st_size} bytes, more than {MOST_BYTES}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path} does not exist") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None
    refuse_mark(data, f"{what} {path}")
    try:
        return parse_json(data, str(path))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are among them
        raise UserError(f"{what} {path} is not valid JSON ({error}); it may be truncated, make it again") from None


def refuse_mark(data: bytes, name: str) -> None:
    """Raises UserError where the bytes begin with the mark of an encoding, as an editor may save them."""
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name} begins with a byte order mark; save it as UTF-8 without one")


def parse_json(data: bytes, name: str, *, nan_is_null: bool = False) -> Any:
    """The value of a JSON text in UTF-8, strictly. Raises ValueError where it is no JSON, else UserError, see `read_json`.

    nan_is_null: take NaN, which tools write where a table has no value, as null.
    """

    def constant(word: str) -> float | None:
        return None if nan_is_null and word == "NaN" else float(word)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=constant)
    except RecursionError:
        raise UserError(f"{name} is nested too deeply; it must have at most {MOST_DEPTH} levels") from None
    _refuse_faults(value, name)
    return value


def read_as(path: Path | str, what: str, shape: type[Shape]) -> Shape:
    """Read a JSON file as `shape` (a msgspec.Struct). Raises UserError that names file, key and what must stand there."""
    return check_shape(read_json(path, what), shape, path)


def check_shape(value: Any, shape: type[Shape], path: Path | str) -> Shape:
    """`value`, read from `path`, as `shape`. Raises UserError, see `read_as`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise UserError(_sentence(str(error), value, path)) from None


def inside(folder: Path, name: str, source: Path) -> Path:
    """The file that `source`, a document of `folder`, calls `name`: relative, and in that folder, links followed.

    The hub's cache is the one exception: its `snapshots/<revision>/` link into `blobs/` of the same repository.
    Raises UserError for any other place.
    """
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and not PureWindowsPath(name).drive and len(name.encode()) < 256
    if not plain or not parts or parts[0] == "/" or ".." in parts:
        raise UserError(f"{source} names the file {shown(name)}; it must be the name of a file in its folder")
    root = folder.resolve()
    roots = [root]
    blobs = root.parent.parent / "blobs"
    if root.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
        roots.append(blobs)
    try:
        real = (root / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        real = Path("/")
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise UserError(f"{source} names the file {shown(name)}, a link out of its folder; copy the file itself there")
    return folder / name


def shown(value: Any) -> str:
    """A value for an error: JSON of at most 60 letters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def plain(name: str) -> str:
    """A name from outside for an error: as it is where it is short and printable, else as `shown`."""
    return name if name.isprintable() and len(name) <= 150 else shown(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                entries[key] = _Fault("given twice", "given once")
            seen.add(key)
    return entries


def _integer(digits: str) -> int | _Fault:
    if len(digits) > MOST_DIGITS:
        return _Fault(f"a number of {len(digits)} digits", f"a number of at most {MOST_DIGITS}")
    return int(digits)


def _refuse_faults(document: Any, name: str) -> None:
    """Raise UserError for the first value that no document may hold."""
    stack: list[tuple[str, Any, int]] = [("", document, 0)]
    while stack:
        key, value, depth = stack.pop()
        if isinstance(value, (dict, list)):
            if depth >= MOST_DEPTH:
                raise UserError(f"{name} is nested too deeply; it must have at most {MOST_DEPTH} levels")
            if isinstance(value, list):
                stack += [(f"{key}[{i}]", item, depth + 1) for i, item in enumerate(value)]
            else:
                stack += [(_below(key, part, name), item, depth + 1) for part, item in value.items()]
        elif isinstance(value, _Fault):
            _refuse(name, key, value.found, value.wanted)
        elif isinstance(value, float) and not math.isfinite(value):
            _refuse(name, key, "NaN" if math.isnan(value) else "infinite", "a finite number")
        elif isinstance(value, str) and not _is_unicode(value):
            _refuse(name, key, shown(value), "text without half a surrogate pair")


def _below(key: str, part: str, name: str) -> str:
    if not _is_unicode(part):
        _refuse(name, key, f"an object with the key {shown(part)}", "an object whose keys are whole Unicode")
    return f"{key}.{part}" if key else part


def _is_unicode(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _refuse(name: str, key: str, found: str, wanted: str) -> NoReturn:
    raise UserError(f"{name}: {plain(key) or 'the document'} is {found}; it must be {wanted}")


def _sentence(problem: str, document: Any, path: Path | str) -> str:
    """msgspec's error ("Expected `int`, got `str` - at `$.a.b`") in our form."""
    if " - at `" in problem:  # the last one: a value that is shown may hold the same words
        problem, _, at = problem.rpartition(" - at ")
    else:
        at = ""
    place = re.search(r"\$([^`]*)", at)
    key = (place[1] if place else "").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(.*)`", problem)
    if missing:
        return f"{path} has no {f'{plain(key)}.' if key else ''}{plain(missing[1])}; it must be there"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL)
    if unknown:
        key, _ = _value_at(document, key, "object")
        return f"{path}: {f'{plain(key)}.' if key else ''}{plain(unknown[1])} is unknown; remove it, or get the file again"
    got = re.search(r", got `(\w+)`", problem)
    enum = re.match(r"Invalid enum value '(.*)'", problem, re.DOTALL)
    key, value = _value_at(document, key, got[1] if got else "", enum[1] if enum else None)
    key, found = plain(key), shown(value)
    wanted = re.sub(
        r"`(\w+)`", lambda word: _WORDS.get(word[1], word[1]), re.sub(r", got .*", "", problem).replace(" | ", "` or `")
    )
    wanted = (
        wanted.removeprefix("Expected ").replace(">= ", "of at least ").replace("<= ", "of at most ").replace("> ", "above ")
    )
    wanted = wanted.removesuffix(" or null")
    wanted = re.sub(r"Invalid enum value.*", "a supported value", wanted, flags=re.DOTALL)
    if not key:
        return f"{path} is {found}; it must be {wanted}"
    return f"{path}: {key} is {found}; it must be {wanted}"


def _value_at(document: Any, key: str, kind: str, said: str | None = None) -> tuple[str, Any]:
    """(the whole key, the value there). msgspec writes `[...]` for any key of an object: it is the first that leads to a
    value of the type `kind`, or equal to `said`."""
    parts = re.findall(r"[^.\[\]]+|\[\.\.\.\]", key)
    found = next(_values_at(document, parts, "", lambda value: _is_meant(value, kind, said)), None)
    return found or next(_values_at(document, parts, "", lambda value: True), ("", document))


_KINDS = {"int": int, "float": float, "str": str, "bool": bool, "array": list, "object": dict, "null": type(None)}


def _is_meant(value: Any, kind: str, said: str | None) -> bool:
    return value == said if said is not None else type(value) is _KINDS.get(kind)


def _values_at(document: Any, parts: list[str], whole: str, meant: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """(whole key, value) of the values that `parts` may name and that are meant."""
    if not parts:
        if meant(document):
            yield whole, document
    elif isinstance(document, list):
        if parts[0].isdigit() and int(parts[0]) < len(document):
            yield from _values_at(document[int(parts[0])], parts[1:], f"{whole}[{parts[0]}]", meant)
    elif isinstance(document, dict):
        for name in document if parts[0] == "[...]" else [parts[0]]:
            if name in document:
                yield from _values_at(document[name], parts[1:], f"{whole}.{name}" if whole else name, meant)
