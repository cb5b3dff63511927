"""Currencies: the signs that stand for each, how many decimals it has, and the rates that turn one into another.

Signs, decimals and decimal marks are CLDR's (`currencies.json`, made by scripts/write_currencies.py). Shops also write
words and short forms that CLDR does not list; those are in `_LOCAL`.
"""

from __future__ import annotations

import csv
import functools
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_phi3v.documents import read_json
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import short
from mlx_phi3v.text import in_form

# What shops write beside CLDR's signs: local words, abbreviations, and signs of an earlier CLDR. The first code is what
# the sign means where nothing else is said; a "?" in its place: nothing.
_LOCAL = {
    "EUR": "euro euros eur €uro", "GBP": "pound pounds quid", "USD": "us$ usd$ u$s u$d $us",
    "CHF": "fr fr. sfr sfr. franken", "PLN": "zl zlotych złotych złote", "CZK": "kc kč korun", "HUF": "forint",
    "INR": "rs rs. ₨ रु रू ரூ rupees", "IDR": "rp rp. rupiah", "MYR": "rm ringgit", "PHP": "₱ piso",
    "KRW": "원 won ￦", "JPY": "円 圓 yen jp¥", "TRY": "tl lira", "THB": "baht บาท", "VND": "đ đồng dong vnđ d₫",
    "BGN": "лв lv leva", "UAH": "грн hrn", "KZT": "тг тенге", "RSD": "din дин", "AZN": "manat ман", "GEL": "lari ლ",
    "AMD": "dram դր", "ILS": "nis ש״ח שח", "NGN": "naira", "KES": "kshs ksh", "GHS": "₵ gh¢ ghc", "EGP": "le l.e. e£ جنيه",
    "BDT": "tk taka", "BOB": "bs", "PYG": "gs", "CRC": "¢", "BRL": "reais", "MXN": "m.n. mn mxn$ mex$", "COP": "cop$ col$",
    "CLP": "clp$", "ARS": "ar$", "CAD": "c$ ca$ cdn$", "AUD": "a$ au$", "NZD": "nz$", "HKD": "hk$ 港币 港元 港幣",
    "SGD": "s$ sg$", "TWD": "nt 新台幣 台幣", "DKK": "dkr", "NOK": "nkr", "SEK": "skr", "PEN": "s/. soles",
    "ZAR": "rand", "KWD": "kd k.d.", "BHD": "bd b.d.", "OMR": "r.o. ro", "QAR": "qr q.r.", "JOD": "jd j.d.",
    "AED": "dhs dirhams", "SAR": "sar s.r.", "DOP": "rd$", "LKR": "රු", "NPR": "nrs npr रू.", "RUB": "rur ₽ руб руб. рублей р",
    "RON": "lei leu", "CNY": "元 rmb cn¥ 人民币 圆 yuan", "MAD": "dhs.ma",
}  # fmt: skip
_SHARED = {
    "$": "? USD CAD AUD NZD HKD SGD MXN TWD ARS CLP COP", "¥": "? JPY CNY", "￥": "? JPY CNY", "kr": "? SEK NOK DKK ISK",
    "dollar": "? USD CAD AUD NZD HKD SGD", "dollars": "? USD CAD AUD NZD HKD SGD", "peso": "? MXN PHP ARS CLP COP",
    "pesos": "? MXN PHP ARS CLP COP", "fcfa": "? XOF XAF", "cfa": "? XOF XAF", "dh": "? AED MAD", "dhs": "? AED MAD",
    "rs": "INR INR PKR LKR NPR MUR SCR", "руб": "RUB RUB BYN", "lei": "RON RON MDL",
    "元": "CNY CNY TWD HKD", "圆": "CNY CNY JPY", "円": "JPY JPY", "रु": "? INR NPR", "रू": "? INR NPR",
    "r": "ZAR ZAR", "ريال": "? SAR QAR OMR YER IRR", "درهم": "? AED MAD", "دينار": "? KWD BHD JOD IQD TND DZD LYD",
    "le": "EGP EGP SLE", "nt": "TWD TWD", "bs": "BOB BOB VES", "fr": "CHF CHF", "£": "GBP GBP EGP LBP SYP SSP FKP GIP SHP",
    "sr": "? SAR SCR", "sh": "? KES TZS UGX SOS", "c$": "CAD CAD NIO",
}  # fmt: skip
# CLDR lists both marks for countries where several languages are official; shops there write the dot.
_ALSO_DOT = frozenset({"USD", "CAD", "CHF", "AED", "CNY", "EGP", "SAR", "QAR", "PKR"})
_USUAL_DECIMALS = 2
# Codes that are words too: "12 all" is no price in Albanian lek.
_WORDS = frozenset({"all", "bam", "cup", "gel", "mad", "mop", "pen", "sos", "top", "try"})


@dataclass(frozen=True)
class Sign:
    """What a sign may stand for: ISO codes, and the one it means where nothing else is said."""

    codes: frozenset[str]
    usual: str | None


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_json(Path(__file__).with_name("currencies.json"), "table of currencies")
    return found


@functools.cache
def _signs() -> dict[str, Sign]:
    codes: dict[str, set[str]] = {}
    usual: dict[str, str | None] = {}
    for code, entry in _table().items():
        for sign in (*entry["signs"], *_LOCAL.get(code, "").split()):
            codes.setdefault(sign_key(sign), set()).add(code)
    for code, entry in _table().items():
        if entry["en"]:
            usual.setdefault(sign_key(entry["en"]), code)
    for sign, listed in _SHARED.items():
        first, *others = listed.split()
        key = sign_key(sign)
        codes.setdefault(key, set()).update(others)
        usual[key] = None if first == "?" else first
    for code in _table():
        codes[code.casefold()], usual[code.casefold()] = {code}, code
    alone = {key: next(iter(found)) if len(found) == 1 else None for key, found in codes.items()}
    return {key: Sign(frozenset(found), usual.get(key, alone[key])) for key, found in codes.items()}


@functools.lru_cache(maxsize=10_000)
def sign_key(text: str) -> str:
    """A sign as it is looked up: one Unicode form, in lower case, without blanks, hidden marks and a last dot.

    >>> sign_key("Руб."), sign_key("F CFA")
    ('руб', 'fcfa')
    """
    plain = in_form("NFKC", text).casefold()
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf").rstrip(".")


@functools.lru_cache(maxsize=10_000)
def find_sign(text: str) -> Sign | None:
    """What a sign, a code or both together stand for (`US $`, `$ USD`, `MXN$`); None where it is no currency.

    Two signs that contradict each other stand for no code at all: `Sign(frozenset(), None)`.
    """
    key = sign_key(text)
    if key in _WORDS and not text.strip().isupper():
        return None
    known = _signs().get(key)
    if known is not None:
        return known
    pieces = text.split()
    if len(pieces) == 1 and text[:3].upper() in _table():
        pieces = [text[:3], text[3:]]
    elif len(pieces) == 1 and text[-3:].upper() in _table():
        pieces = [text[:-3], text[-3:]]
    found = [_signs().get(sign_key(piece)) for piece in pieces]
    if len(pieces) != 2 or found[0] is None or found[1] is None:
        return None
    return both(found[0], found[1])


def both(first: Sign, second: Sign) -> Sign:
    """What two signs at one price stand for."""
    common = first.codes & second.codes
    usual = first.usual if first.usual in common else second.usual if second.usual in common else None
    return Sign(common, next(iter(common)) if len(common) == 1 else usual)


def currency_code(value: Any) -> str | None:
    """The ISO code that a cell of a column of currencies names: a code, or a sign that usually means one."""
    if not isinstance(value, str):
        return None
    sign = find_sign(value.strip())
    return sign.usual or ("USD" if sign_key(value) == "$" else None) if sign else None


def is_currency(code: str) -> bool:
    """Whether this is the ISO code of a currency, in capitals."""
    return code in _table()


def decimals(code: str | None) -> int:
    """How many decimals prices of this currency have."""
    return int(_table()[code]["decimals"]) if code in _table() else _USUAL_DECIMALS


def dot_marks_decimals(code: str | None) -> bool:
    """Whether a dot may mark decimals in prices of this currency; true where it is unknown."""
    return code is None or code in _ALSO_DOT or (code in _table() and _table()[code]["marks"] == ".")


def only_comma(code: str | None) -> bool:
    """Whether a comma alone marks decimals where this currency is used."""
    return code in _table() and _table()[code]["marks"] == ","


def read_rates(path: Path) -> dict[str, float]:
    """Code -> how much one unit is worth in the catalogue's currency, of a YAML file or a CSV file of code and rate.

    Raises UserError for a file that cannot be read, a code that is none, and a rate that is no positive number.
    """
    rows: Mapping[Any, Any]
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = _rates_of_csv(path)
    else:
        from mlx_phi3v.cli import read_yaml

        rows = read_yaml(path)
    rates = {}
    for name, value in rows.items():
        code = str(getattr(name, "text", name)).strip().upper()
        if not is_currency(code):
            raise UserError(f"--currency-rates {path} names {short(name)}, which is no ISO code of a currency, such as EUR")
        try:
            rate = float(str(getattr(value, "text", value)))
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise UserError(f"--currency-rates {path} gives {code} the rate {short(value)}; write a number above 0")
        rates[code] = rate
    if not rates:
        raise UserError(f"--currency-rates {path} holds no rate; write one line for each currency, such as EUR: 1.08")
    return rates


def _rates_of_csv(path: Path) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(1_000_000)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--currency-rates {path} cannot be read ({error}); give a CSV file of code and rate") from None
    mark = max(",;\t", key=text.partition("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=mark) if any(row)]
    if rows and not is_currency(rows[0][0].upper()):
        rows = rows[1:]  # the names of the columns
    wrong = next((row for row in rows if len(row) < 2), None)
    if wrong is not None:
        raise UserError(f"--currency-rates {path} has the line {short(mark.join(wrong))}; write a code and a rate")
    return {row[0]: row[1] for row in rows}
