"""In which encoding a text file is: by its first bytes, as UTF-8, or by the one language whose letters it is made of."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlx_phi3v.errors import UserError

from .byte_streams import open_bytes, read_line

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_SAMPLE = 1 << 16
_MIXED_SHARE = 0.02  # of the lines that are not ASCII: so many may be no UTF-8 in a file that is
# The letters of a language beyond a to z, in lower case; what an encoding may be taken for.
_LANGUAGES = {
    "cp1252": (
        "äöüß", "àâæçèéêëîïôœùûüÿ", "áéíïñóúü", "ãáàâçéêíóôõúü", "àèéìíîòóùú", "éëïóöüèáí", "æøåéäö", "åäöé",
        "áéíóúýþæöð", "àçèéíïòóúü", "áéíóú",
    ),
    "cp1250": ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíľňóôšťúýž", "áéíóöőúüű", "ăâîşţ", "čćđšž", "äöüß"),
    "cp1254": ("çğıöşüâî",),
    "cp1257": ("āčēģīķļņšūž", "ąčęėįšųūž", "äõöüšž"),
    "cp1251": ("абвгдежзийклмнопрстуфхцчшщъыьэюяё", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
    "koi8_r": ("абвгдежзийклмнопрстуфхцчшщъыьэюяё",),
    "cp1253": ("αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώϊϋΐΰ",),
    "mac_roman": ("äöüß", "àâæçèéêëîïôœùûü", "áéíïñóúü"),
}  # fmt: skip
_ASIAN = ("cp932", "gb18030", "big5", "cp949", "euc_jp", "euc_kr")
_SIGNS = set("€£¥°®©™’‘“”„–—…•·½¼¾×«»´ºª¿¡²³±µ§\u00a0№")
_EAST_ASIAN = re.compile("[\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef·—‘’“”…×°]")
_WORD = re.compile(r"[^\W\d_]+")
_ASCII = re.compile("[A-Za-z]")
_SIGN_IN_WORD = re.compile(r"[^\W\d_][€£¥®©½¼¾¿¡²³±§µ][^\W\d_]")
_LATIN = re.compile("[à-žß]")


def read_mark(start: bytes) -> str | None:
    """The encoding that the first bytes of a file give, or None."""
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if marked or len(start) < 4:
        return marked
    even, odd = start[:200:2].count(0), start[1:200:2].count(0)
    half = len(start[:200]) // 4
    return "utf-16-le" if odd > half and not even else "utf-16-be" if even > half and not odd else None


def find_encoding(path: Path, said: str | None, most: int | None = None) -> tuple[str, str]:
    """(the codec of a text file, a note for the user or ""). `said` is what the user gave; `most` bytes are looked at.

    "utf-8-sig" with the note "mixed" stands for UTF-8 of which some lines are broken. Raises UserError where the encoding
    cannot be known, or where `said` is wrong.
    """
    if said is not None:
        try:
            codecs.lookup(said)
        except (LookupError, ValueError):
            raise UserError(f"--encoding {said} is unknown; try utf-8, cp1252 or utf-16") from None
    with open_bytes(path) as file:
        marked = read_mark(file.read(256))
    if said is None and marked:
        return marked, ""
    if marked == "utf-8-sig" and codecs.lookup(said or "").name == "utf-8":
        return marked, ""
    with open_bytes(path) as file:
        good, bad, sample = _lines_beyond_ascii(file, most)
    if said is not None:
        name = codecs.lookup(said).name
        if good and not bad and len(name) < 12 and name.startswith(("cp", "iso8859", "latin", "mac")):
            raise UserError(f"{path} is UTF-8 text, not {said}; leave --encoding out")
        return ("utf-8-sig" if name == "utf-8" else said), ""
    if not bad:
        return "utf-8-sig", ""
    if bad <= _MIXED_SHARE * good:
        return "utf-8-sig", "mixed"
    return _guessed(path, sample)


def _lines_beyond_ascii(file: IO[bytes], most: int | None) -> tuple[int, int, bytes]:
    """(lines that are UTF-8 and not ASCII, lines that are not UTF-8, a sample of the latter)."""
    good = bad = 0
    sample: list[bytes] = []
    left = _SAMPLE
    for block in _blocks(file, most):
        if block.isascii():
            continue
        if not bad and _is_utf8(block):
            good += 1 + block.count(b"\n")
            continue
        for line in block.split(b"\n"):
            if line.isascii():
                continue
            if _is_utf8(line):
                good += 1
                continue
            bad += 1
            if left > 0:
                sample.append(line[:left])
                left -= len(line) + 1
    return good, bad, b"\n".join(sample)


def _blocks(file: IO[bytes], most: int | None) -> Iterator[bytes]:
    """A file in pieces that end at a line's end."""
    done = 0
    while (most is None or done < most) and (block := file.read(1 << 20)):
        line, is_whole = read_line(file)
        block += line if is_whole else b"\n"  # what is cut off may end inside a letter
        done += len(block)
        yield block


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guessed(path: Path, sample: bytes) -> tuple[str, str]:
    readings = {name: text for name in _LANGUAGES if (text := _decoded(sample, name)) is not None and _is_written(text, name)}
    best = _asian(sample)
    if best and len(readings) != 1:
        readings = readings or {best: _decoded(sample, best) or ""}
    if len(set(readings.values())) == 1:
        name = next(iter(readings))
        return name, f"{path.name} is read as {name}, by its letters: {_beyond_ascii(readings[name])}"
    asian = {name: text for name in _ASIAN if (text := _decoded(sample, name)) is not None and _is_asian(text)}
    shown = readings or asian or {name: sample.decode(name, "replace") for name in ("cp1252", "cp1250", "cp1251")}
    tries = ", ".join(f"{_beyond_ascii(text)!r} as {name}" for name, text in list(shown.items())[:3])
    raise UserError(f"{path} is not UTF-8 text ({tries}); give its encoding, such as --encoding {next(iter(shown))}")


def _is_asian(text: str) -> bool:
    """Whether all that is not ASCII is Chinese, Japanese or Korean, of the signs that are in use."""
    return all(ord(character) < 128 or _EAST_ASIAN.match(character) for character in text)


def _decoded(sample: bytes, name: str) -> str | None:
    try:
        return sample.decode(name)
    except UnicodeDecodeError:
        return None


def _is_written(text: str, name: str) -> bool:
    """Whether one language explains all letters, words have the case of words, and signs are usual ones."""
    beyond = [character for character in text if ord(character) > 127]
    letters = {character.lower() for character in beyond if character.isalpha()} - {"ª", "º", "µ"}
    signs = sum(not character.isalpha() and character not in _SIGNS for character in beyond)
    if not any(letters <= set(alphabet) for alphabet in _LANGUAGES[name]) or signs or _SIGN_IN_WORD.search(text):
        return False
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    if not _LATIN.search("".join(_LANGUAGES[name])) and any(_ASCII.search(word) for word in words):
        return False  # no word is written in two scripts
    if not words:
        return name == "cp1252"  # signs alone: a euro or a degree
    odd = sum(not (word.islower() or word.isupper() or word[1:].islower() or len(word) < 2) for word in words)
    return odd <= 0.05 * len(words)


def _asian(sample: bytes) -> str | None:
    """The encoding of Chinese, Japanese or Korean text that charset-normalizer finds, or None."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample, cp_isolation=list(_ASIAN)).best()
    return best.encoding if best is not None and best.encoding in _ASIAN and best.chaos == 0 else None


def _beyond_ascii(text: str) -> str:
    """The first words of a text that say which encoding is right."""
    words = [word for word in text.split() if not word.isascii()]
    return " ".join(words)[:40]
