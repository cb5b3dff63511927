"""How a sound file is damaged: hypothesis draws what is done to its bytes, its JSON values, or its lines."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Stands for the folder outside of the one that a target is given; `watch` notices who reads there.
OUTSIDE = "@OUTSIDE@"
# Stands for that given folder in the bytes that are damaged: what is drawn must not depend on where the folder lies.
FOLDER = "@FOLDER@"


class Raw:
    """Text put into JSON as it is, whatever it is."""

    def __init__(self, text: str) -> None:
        self.text = text


_DEEP = "[" * 3000 + "]" * 3000
_RAW = [
    *("9" * 50, "-" + "9" * 400, "9" * 5000, "1e400", "-1e400", "NaN", "-Infinity", "1E-400", "0.1e", "01"),
    *(_DEEP, '{"a":' * 2000 + "1" + "}" * 2000, '{"a":1,"a":2}', "[1,]", "'a'", '"\\ud800"', '"a\\u0000b"', "", "tru"),
]
TEXTS = [
    *("", "x", " ", "0", "-1", "nan", "a\x00b", "\ud800", "\u202egnp.a", "\x1b]0;owned\x07", "\x1b[2J", "\r\nx", "x" * 3000),
    *("../outside/secret.png", "..", "/", f"{OUTSIDE}/secret.png", f"{OUTSIDE}/secret.safetensors", f"{OUTSIDE}/secret.json"),
    *("../../outside/secret.json", "../outside/secret.safetensors", "/dev/zero", "C:\\x", "~", "~nobody/x", "link.png"),
    *(
        "{title}",
        "{",
        "{0}",
        "%s",
        "[red]",
        "[/]",
        "<script>alert(1)</script>",
        "<|end|>",
        "<|image_1|>",
        "<|image_9|>",
        "=1+1",
    ),
    *("(a*)*b", "(.*)*(.*)*x$", "[", "\\", "2024-13-45", "http://127.0.0.1:99999/a.png", "http://[", "file:///etc/hostname"),
]
_VALUES: list[Any] = [
    *(None, True, False, 0, -0.0, 1, 2, -1, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**18, 10**30, 0.5, 1.5, -2.5, 1e-320, 1e-9, 1e9, 1e18, 1e308, float("nan"), float("inf"), float("-inf")),
    *([], {}, [None], [[]], [1], [-1], ["x"], [{}], [1, 2, 3], {"a": 1}, {"": None}, {"x": [1]}, [1e308] * 3, [[1, [2, [3]]]]),
]
VALUES: list[Any] = _VALUES + TEXTS + [Raw(text) for text in _RAW]
_PIECES = [
    *(
        b"",
        b"\x00",
        b"\xff",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00",
        b"\x00" * 8,
        b"\n",
        b"\r",
        b'"',
        b"'",
    ),
    *(b"{", b"}", b"[", b"]", b",", b":", b";", b"\t", b"\\", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xfe\xff"),
    *(b"-", b"9", b"9" * 40, b"1e999", b"nan", b"null", b"[]", b"{}", b"!!int x", b"&a *a", b"<<: ", b"? ", b"%", b"\x1b[2J"),
]


def damaged(draw: Draw, kind: str, data: bytes) -> bytes:
    """`data`, a file of this kind, with one to four mutations."""
    change = _CHANGES.get(kind, _bytes)
    for _ in range(draw(st.integers(1, 3))):
        data = (change if draw(st.integers(0, 3)) else _bytes)(draw, data)
    return data


def _place(draw: Draw, size: int) -> int:
    """A place in so many bytes; often near the start, where headers are."""
    place: int = draw(st.integers(0, max(0, min(size, 400) - 1 if draw(st.booleans()) else size - 1)))
    return place


def _bytes(draw: Draw, data: bytes) -> bytes:
    """Bytes flipped, overwritten, cut out, inserted or doubled, or the end cut off."""
    changed = bytearray(data)
    at = _place(draw, len(data))
    match draw(st.integers(0, 6)):
        case 0:
            changed[at : at + 1] = bytes([(changed[at] if changed else 0) ^ 1 << draw(st.integers(0, 7))])
        case 1:
            changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        case 2:
            del changed[at : at + draw(st.integers(1, 64))]
        case 3:
            changed[at:at] = draw(st.sampled_from(_PIECES))
        case 4:
            piece = draw(st.sampled_from(_PIECES))
            changed[at : at + len(piece)] = piece
        case 5:
            changed[at:at] = changed[at : at + draw(st.integers(1, 400))]
        case _:
            del changed[at:]
    return bytes(changed)


def _json(draw: Draw, data: bytes) -> bytes:
    """One value of a JSON document replaced, removed, renamed, doubled or swapped, at any depth."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(draw, data)
    return _dumped(_changed_value(draw, value))


def _changed_value(draw: Draw, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return draw(st.sampled_from(VALUES))
    # The top holds few of all values, and most of the meaning.
    if draw(st.booleans()):
        places = [place for place in places if len(place) <= 2]
    *path, last = draw(st.sampled_from(places))
    holder = value
    for step in path:
        holder = holder[step]
    match draw(st.integers(0, 7)):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(last)
        case 1:
            holder.insert(last, holder[last])
        case 2:
            *other, name = draw(st.sampled_from(places))
            source = value
            for step in other:
                source = source[step]
            holder[last] = json.loads(json.dumps(source[name]))
        case 3 if isinstance(holder[last], (int, float)) and not isinstance(holder[last], bool):
            holder[last] = holder[last] * draw(st.sampled_from([-1, 2, 0.5, 1000, 1e-3])) + draw(st.sampled_from([0, 1, -1]))
        case _:
            holder[last] = draw(st.sampled_from(VALUES))
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """The path of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _dumped(value: Any) -> bytes:
    """JSON text, with each `Raw` as it is, and what JSON lacks as Python writes it."""
    raw: list[str] = []

    def mark(item: Any) -> str:
        raw.append(item.text)
        return f"@RAW{len(raw) - 1}@"

    text = json.dumps(value, default=mark, ensure_ascii=len(raw) % 2 == 0)
    for number, item in enumerate(raw):
        text = text.replace(f'"@RAW{number}@"', item)
    return text.encode("utf-8", "surrogatepass")


def _lines(draw: Draw, data: bytes) -> bytes:
    """One line of JSON lines changed, removed, doubled or moved to the front."""
    lines = data.splitlines(keepends=True) or [b""]
    at = draw(st.integers(0, len(lines) - 1))
    match draw(st.integers(0, 6)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines.insert(0, lines.pop(at))
        case _:
            lines[at] = _json(draw, lines[at].rstrip(b"\n")) + b"\n"
    return b"".join(lines)


def _words(draw: Draw, data: bytes) -> bytes:
    """One word of a text (between marks and blanks) replaced: a cell of a table, a value of YAML."""
    text = data.decode("utf-8", "surrogateescape")
    marks = [-1, *(i for i, letter in enumerate(text) if letter in ',\t\n":{}[] '), len(text)]
    at = draw(st.integers(0, len(marks) - 2))
    word = draw(st.sampled_from(VALUES))
    if isinstance(word, Raw):
        word = word.text
    elif not isinstance(word, str):
        word = json.dumps(word)
    changed = text[: marks[at] + 1] + word + text[marks[at + 1] :]
    return changed.encode("utf-8", "surrogatepass") if changed.isprintable() else changed.encode("utf-8", "replace")


def _safetensors(draw: Draw, data: bytes) -> bytes:
    """The header changed as JSON, its length kept right; or a number of the body made NaN or infinite."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    except struct.error:
        return _bytes(draw, data)
    if draw(st.integers(0, 3)) == 0 and len(body) >= 4:
        at = draw(st.integers(0, len(body) // 4 - 1)) * 4
        body[at : at + 4] = draw(
            st.sampled_from([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00"])
        )
    else:
        header = _json(draw, header)
    return struct.pack("<Q", len(header)) + header + bytes(body)


_CHANGES: dict[str, Callable[[Draw, bytes], bytes]] = {
    "json": _json,
    "lines": _lines,
    "text": _words,
    "safetensors": _safetensors,
}
