"""What a cell holds as text that people read: lists and objects written out, HTML taken out, words for nothing found."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from mlx_phi3v.task import is_missing

# What pandas reads as missing (its `na_values`), Excel's error values, and what scrapers, SQL and JavaScript write.
_EXACT = frozenset(
    {"NA", "<NA>", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN",
     "-", "--", "---", "–", "—", "[]", "{}", "()", "[null]", "[None]", "['']", '[""]', "''", '""',
     "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!", r"\N"}
)  # fmt: skip
_ANY_CASE = frozenset({"none", "null", "(null)", "n/a", "#n/a", "n.a.", "undefined", "nil"})
_LONGEST = 9
_FIRST = frozenset(word[0] for word in _EXACT) | frozenset(c for word in _ANY_CASE for c in (word[0], word[0].upper()))

# The keys of an object that hold what it is called, the first one first.
_NAMES = ("name", "value", "label", "title", "text", "content", "@value", "#text", "displayName", "display_name")
_AMOUNTS = ("amount", "value", "price", "current", "current_price", "low_price", "min", "units")
# What Strapi and JSON:API put around an object that another one names.
_AROUND = frozenset({"data", "attributes", "id", "type", "meta"})
_DIVISORS = ("divisor", "currency_minor_unit")  # of an amount in hundredths: 100 (Etsy), 2 (WooCommerce)
# What MongoDB, DynamoDB and Firestore write around a value, to tell its type.
_TYPED = frozenset(
    {"$numberDecimal", "$numberInt", "$numberLong", "$numberDouble", "$oid", "$date", "S", "N", "BOOL", "L", "M", "SS", "NS",
     "stringValue", "integerValue", "doubleValue", "booleanValue", "arrayValue", "mapValue"}
)  # fmt: skip
_OF_TYPED = {"arrayValue": "values", "mapValue": "fields"}  # of Firestore
_CURRENCIES = ("currency", "currency_code", "currencyCode", "priceCurrency", "currency_iso", "iso")
_LANGUAGES = ("en", "default", "en_US", "en-US", "en_GB", "en-GB")
_MOST_TEXT = 200_000  # characters of a cell that is looked at as a list

_TAGS = (
    "a abbr address article aside b big blockquote body br button caption center cite code col colgroup dd del details dfn "
    "div dl dt em figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins kbd label "
    "li link main mark meta nav nobr ol option p picture pre q s samp script section select small source span strike strong "
    "style sub summary sup svg table tbody td tfoot th thead time title tr tt u ul video wbr"
)
_TAG = re.compile(rf"<(?:/?(?:{'|'.join(_TAGS.split())})(?=[\s/>])[^<>]*>|!--|!doctype\b)", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_INLINE = frozenset(
    {"a", "abbr", "b", "big", "cite", "code", "dfn", "del", "em", "font", "i", "ins", "kbd", "label", "mark", "q", "s", "samp",
     "small", "span", "strike", "strong", "sub", "sup", "tt", "u"}
)  # fmt: skip


def may_be_nothing(text: str) -> bool:
    """Whether a text begins as a blank or as a word for nothing does."""
    first = text[:1]
    return not first or first in _FIRST or first.isspace()


def is_nothing(value: Any) -> bool:
    """Whether a cell says that there is nothing: a word of the list above and nothing else, or an empty list or object."""
    if isinstance(value, str):
        text = value.strip()
        # Called for every cell: most are told by their first character.
        return text[:1] in _FIRST and len(text) <= _LONGEST and (text in _EXACT or text.casefold() in _ANY_CASE)
    return isinstance(value, (list, tuple, dict)) and not value


def readable(value: Any, *, path: bool = False, words: bool = True) -> str | None:
    """A cell as text, None where it holds nothing.

    A list becomes `Red, Blue`; with `path` (a category) `Home > Lighting`, and a list of such lists `Home > Lighting, Sale`.
    An object becomes its name, value, label or title, else `key: value, key: value`. Text that is a JSON or Python list or
    object is read as one. `words`: leave out what `is_nothing`.

    >>> readable(["Red", None, "Blue"]), readable([["Home", "Lighting"], ["Sale"]], path=True), readable({"label": "Lamp"})
    ('Red, Blue', 'Home > Lighting, Sale', 'Lamp')
    """
    value = unpacked(value)
    if is_missing(value) or (words and is_nothing(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8")  # what is no text is refused as one unreadable value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return _object(value, path, words)
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(item, (list, tuple)) for item in value)
        items = (readable(item, path=path and nested, words=words) for item in value)
        return (" > " if path and not nested else ", ").join(dict.fromkeys(item for item in items if item)) or None
    return str(value)


def unpacked(value: Any) -> Any:
    """A cell whose text is a whole JSON or Python list or object, as that; any other cell itself, without a type around it."""
    while isinstance(value, Mapping) and len(value) == 1 and (key := next(iter(value))) in _TYPED:
        value = value[key]
        if (below := _OF_TYPED.get(key)) and isinstance(value, Mapping):
            value = value.get(below)
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        return value
    text = value.strip()
    if len(text) < 3 or (text[0], text[-1]) not in (("[", "]"), ("{", "}")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, (list, dict)) else value
    return value


def unquoted(value: Any) -> Any:
    """The text that a JSON string stands for; any other cell itself.

    >>> unquoted('"Hat"'), unquoted('"Imagine" poster'), unquoted(5)
    ('Hat', '"Imagine" poster', 5)
    """
    text = value.strip() if isinstance(value, str) and len(value) <= _MOST_TEXT else ""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return value
    try:
        return json.loads(text)
    except ValueError:
        return value


def _object(value: Mapping[str, Any], path: bool, words: bool) -> str | None:
    for key in (*_NAMES, *_LANGUAGES):
        if key in value and (text := readable(value[key], path=path, words=words)):
            return text
    named = next((item for key, item in value.items() if str(key).casefold().endswith("name")), None)
    if isinstance(named, str) and named.strip():
        return named
    inner = next((value[key] for key in ("data", "attributes") if isinstance(value.get(key), (Mapping, list))), None)
    if inner is not None and value.keys() <= _AROUND:
        return readable(inner, path=path, words=words)
    items = ((key, readable(item, words=words)) for key, item in value.items())
    return ", ".join(f"{key}: {text}" for key, text in items if text) or None


def price_parts(value: Any) -> tuple[Any, Any]:
    """(amount, currency) of a cell: an object's own, of a list the one entry it has; (the cell, None) of anything else."""
    value = unpacked(value)
    while isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        return value, None
    amount = next((value[key] for key in _AMOUNTS if not is_missing(value.get(key))), None)
    if isinstance(amount, (Mapping, list)):
        return price_parts(amount)
    amount = _divided(unpacked(amount), value)
    return amount, next((value[key] for key in _CURRENCIES if not is_missing(value.get(key))), None)


def _divided(amount: Any, value: Mapping[str, Any]) -> Any:
    """An amount of hundredths, where the object says so, as one of whole units."""
    divisor, places = (value.get(key) for key in _DIVISORS)
    if not str(amount).isdecimal() or not (str(divisor or 10).isdecimal() and str(places or 0).isdecimal()):
        return amount
    return Decimal(str(amount)) / (int(divisor) or 1 if divisor else 10 ** min(int(places or 0), 6))


def without_html(text: str) -> str:
    """Text without HTML: tags and comments gone, blocks apart, entities as the characters they stand for.

    Only tags that HTML has count, so `5 < 6` and `<M>` stay, as do `AT&T` and `R&D`.

    >>> without_html("<p>Silk &amp; wool</p><p>5 < 6</p>")
    'Silk & wool 5 < 6'
    """
    if "<![CDATA[" in text:
        end = text.rfind("]]>") + 3  # behind the last end none is looked for
        text = _CDATA.sub(r"\1", text[:end]) + text[end:]
    for _ in range(3):  # a feed escapes HTML once more
        if "<" in text and _TAG.search(text):
            text = _text_of(text)
        elif "&" in text and _ENTITY.search(text):
            text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        else:
            break
    return text


def _text_of(text: str) -> str:
    import lxml.html

    # What is no tag and no entity must not be read as one.
    pieces, last = [], 0
    for match in _TAG.finditer(text):
        pieces += [text[last : match.start()].replace("<", "&lt;"), match[0]]
        last = match.end()
    pieces.append(text[last:].replace("<", "&lt;") if "!--" not in pieces[-1] else text[last:])
    safe = re.sub(rf"&(?!{_ENTITY.pattern[1:]})", "&amp;", "".join(pieces))
    parser = lxml.html.HTMLParser()
    root = lxml.html.fragment_fromstring(safe.replace("\0", ""), create_parent="div", parser=parser)
    if any("depth" in entry.message for entry in parser.error_log):  # libxml2 drops what is nested deeper than its limit
        return " ".join(_TAG.sub(" ", text).split())
    return " ".join("".join(_texts(root)).split())


def _texts(element: Any) -> Iterator[str]:
    """The text of an element and all in it; blocks are apart by a blank. Not recursive: HTML nests as deep as it likes."""
    import lxml.etree

    for event, item in lxml.etree.iterwalk(element, events=("start", "end", "comment", "pi")):
        named = isinstance(item.tag, str)
        hidden = not named or item.tag in ("script", "style")
        if named and item.tag not in _INLINE:
            yield " "
        if event == "start" and not hidden:
            yield item.text or ""
        if event != "start":
            yield item.tail or ""
