"""Columns whose names and values look like a title, a category or a price, for what is said where no usual name fits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note
from mlx_phi3v.text import listed

from .amounts import PriceError
from .known_exports import KINDS_OF_USUAL
from .one_hot import one_hot_columns
from .paths_in_row import leaf_paths, resolve
from .prices import CENTS_BEHIND_COMMA, parse_price
from .source_tables import RawRow, first_values

_LOOKED_AT_PATHS = 5
_SHOWN = 4  # columns of a kind
_LEAST = 0.9  # of a column's values
_CENTS = re.compile(r"[.,]\d{2}(?!\d)")
_WORDS = {
    "title": r"tit(el|le|re|ul)|na[mz]|nom|desig|bezeich|artik|artic|artíc|produ[ck]t|名|标题|タイトル|назв",
    "category": r"categ|catég|kateg|famil|grupp|groupe?\b|rubri|rayon|sort|type?\b|类|類|分类|カテゴ|катег",
    "price": r"pri[cxs]|prei|prec|preç|prez|prij|cen[ay]|hinta|fiyat|цен|価|价|價|vk\b|uvp|rrp|msrp|amount|betrag|montant",
}
_NO_PRICE = re.compile(r"weig|gewi|poids|peso|wid|hei|len|dep|lat|lon|rat|scor|disc|rabat|qty|quan|stock|size|%", re.I)
# Prices that are not what the customer pays for one.
_NOT_ASKED = re.compile(
    r"cost|einkauf|\bek\b|achat|purchase|compra|acquisto|old|compare|was|before|previous|list|piyasa|rrp|msrp|uvp|wholesale|grund|base"
    r"|unit|per|kg|ship|versand|porto|frais|min|max|range|currency|type|note",
    re.I,
)
_TAX_RATE = re.compile(r"\W*(?:tax|mwst|ust|vat|steuer|iva|tva|btw|moms|gst|kdv|dph)\W*(?:rate|satz|class|id)?\W*", re.I)
_HUNDREDTHS = re.compile(r"price.*(cents|minor)|(cents|minor).*price|unit_amount|amount_cents", re.I)
_NO_TEXT = re.compile(r"https?://|\.(jpe?g|png|webp|gif)\b", re.I)


def with_fields_by_value(
    fields: Mapping[str, Any], rows: Iterable[RawRow], columns: Sequence[str], source: str
) -> dict[str, Any]:
    """The fields that usual names gave, with the price that one other column alone looks like; both are said.

    Raises UserError where there is no field at all.
    """
    values = first_values(rows)
    used = {name for spec in fields.values() for name in (spec.get("columns") or [spec.get("column")])}
    have = {"title" if name == "name" else name for name in fields}
    nested = dict.fromkeys(path for row in values[:_LOOKED_AT_PATHS] for path in leaf_paths(row) if path not in columns)
    found: dict[str, list[str]] = {}
    for field in [name for name in KINDS_OF_USUAL if name in _WORDS and name not in have]:
        names = [name for name in (*columns, *(nested if field == "price" else ())) if name not in used]
        if alike := [name for name in names if [name] not in found.values() and _looks_like(field, name, values)]:
            found[field] = sorted(alike, key=lambda name: field == "price" and _NOT_ASKED.search(name) is not None)
    if "price" not in have | found.keys() and (small := next(filter(_HUNDREDTHS.search, (*columns, *nested)), None)):
        note(f"{small} looks like prices in hundredths, which are not learned: give a column of whole units")
    classes = [] if "category" in have else one_hot_columns([name for name in columns if name not in used], values)
    if classes and not fields:
        note(f"category is the one of {listed(classes, _SHOWN)} that has a 1; --field or --config says otherwise")
        return {"category": {"columns": classes, "kind": "category", "one_hot": True}}
    if classes:
        yaml = f"category: {{one_hot: true, columns: [{', '.join(classes)}]}}"
        note(f"of {listed(classes, _SHOWN)} each row has one 1: YAML with {yaml} learns it")
    if not fields:
        said = " ".join(_flag(name, alike[:1], KINDS_OF_USUAL[name]) for name, alike in found.items())
        said = said or _flag("title", columns[:1], "text")
        raise UserError(f"{source} has the columns {', '.join(columns)}; say which to learn, for instance --field {said}")
    sure = [name for name in found.get("price", []) if re.search(_WORDS["price"], name, re.I) and not _NOT_ASKED.search(name)]
    learned = dict(fields)
    if len(sure) == 1:
        note(f"price is read from {sure[0]}, by its name and the values there; --field says otherwise")
        learned["price"] = {"column": sure[0], "kind": "number"}
        del found["price"]
    if found:
        _propose(learned, found)
    return learned


def _propose(fields: Mapping[str, Any], found: Mapping[str, Sequence[str]]) -> None:
    said = [_flag(name, spec.get("columns") or [spec["column"]], spec.get("kind", "text")) for name, spec in fields.items()]
    said += [_flag(name, alike[:1], KINDS_OF_USUAL[name]) for name, alike in found.items()]
    alikes = ", ".join(
        f"{listed(alike, _SHOWN)} {'looks' if len(alike) == 1 else 'look'} like {name}" for name, alike in found.items()
    )
    note(f"learned is what has a usual name ({', '.join(fields)}); {alikes}: --field {' '.join(said)} learns all")


def _flag(name: str, columns: Sequence[str], kind: str) -> str:
    return shlex.quote(f"{name}={'|'.join(columns)}:{kind}")


def _looks_like(field: str, name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    cells = [cell for row in rows if (cell := resolve(row, name)) not in (None, "")]
    named = re.search(_WORDS[field], name, re.I) is not None
    if not cells or (field != "price" and not named):
        return False
    if field == "price":
        priced = sum(_is_price(cell, sure=not named) for cell in cells)
        return priced >= _LEAST * len(cells) and not (
            _NO_PRICE.search(name) or _HUNDREDTHS.search(name) or _TAX_RATE.fullmatch(name)
        )
    if len(cells) > 1 and len(set(map(str, cells))) == 1:
        return False
    return all(isinstance(cell, str) and re.search(r"[^\W\d]{2}", cell) and not _NO_TEXT.search(cell) for cell in cells)


def _is_price(cell: Any, *, sure: bool) -> bool:
    """Whether a cell can be read as a price; `sure`: and has a currency or cents."""
    if isinstance(cell, (bool, dict, list, bytes)):
        return False
    try:
        price = parse_price(cell, decimal="," if isinstance(cell, str) and CENTS_BEHIND_COMMA.search(cell) else None)
    except PriceError as error:
        return error.reason == "price_ambiguous"
    return not sure or price.sign is not None or _CENTS.search(str(cell)) is not None
