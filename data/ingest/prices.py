"""Prices as people write them, read or refused, never guessed.

A strict grammar comes first: one number, at most one currency before or after it. What it does not match goes to
price-parser, which knows more currencies; its answer counts only if nothing is left over in the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mlx_phi3v.text import in_form

from .amounts import GROUPED, DecimalMark, PriceError, check_mark, read_amount, tidy_amount
from .currencies import Sign, both, decimals, find_sign, is_currency, sign_key
from .taxes import without_notes

CENTS_BEHIND_COMMA = re.compile(r"\d,\d{1,2}(?!\d)")

_DIGITS = r"\d(?:[\d.,' ]*\d)?"
_NUMBER = re.compile(_DIGITS)
_DASHES = "-–—‒−"
# A dash for "no cents": 12.-  99,–  1200:-  and in India and East Africa 499/-  499/=
_NO_CENTS = re.compile(rf"(?<=\d)\s*(?:(?P<mark>[.,:])\s?[{_DASHES}]{{1,2}}(?!\d)|/[-=](?!\d))")
_STRICT = re.compile(rf"(?P<before>[^\d]*)(?P<number>{_DIGITS})(?P<after>[^\d]*)")
_TO = rf"(?:[{_DASHES}~/]|\.{{2,3}}|\b(?:to|bis|à|a|and|or|до|al|até|til|tot)\b)"
_JOINED = re.compile(rf"(?P<before>[^\d]*?)\s*{_TO}\s*(?P<after>[^\d]*)")
_BESIDE = re.compile(r"\s*[/|(;=≈]\s*")  # between one price in two currencies: 19,56 лв. / 10,00 €
_USUAL = re.compile(r"([$€£])?([0-9]{1,9}(?:\.[0-9]{1,2})?|[0-9]{1,3}(?:,[0-9]{3}){1,2}\.[0-9]{2})")
# As Excel writes a number that its column is too narrow for, and as programs do: 1,99E+02  1.990000e+02. 1e3 is no number.
_SCIENTIFIC = re.compile(r"(?P<first>\d)(?:(?P<mark>[.,])(?P<part>\d+))?[eE](?P<power>[+-]\d{2,3})")
_CENTS = re.compile(r"\d ?¢\Z")  # 99¢; before the number it is the colón of Costa Rica
_RAISED_NOTE = re.compile(r"(?<=\D)[¹²³]\s*\Z")  # 19,90 €¹
_PLAIN_MARKS = str.maketrans("’ʼ`´٫٬", "''''.,")


@dataclass(frozen=True)
class Price:
    """An amount, the ISO code of its currency where it is known, and `sign`: the code or sign that the text itself has.

    rounded: the text has not all digits down to the currency's minor unit, as 1.99E+02 may be 199.37.
    untaxed: the text says that a tax comes on top.
    """

    amount: Decimal
    currency: str | None = None
    sign: str | None = None
    rounded: bool = False
    untaxed: bool = False


def parse_price(value: Any, *, currency: str | None = None, decimal: DecimalMark | None = None) -> Price:
    """Read one price from a number or from the text of one field.

    `currency` is the ISO code the column is in: it settles what a sign of several currencies means, and a text with
    another currency is refused, unless the price in this one is beside it. `decimal` is the decimal mark of the column;
    without it "1.250" of a dot-decimal or unknown currency is refused. Digits that only the binary form of a number has
    are rounded away (`tidy_amount`).

    Raises PriceError with one of the reasons price_empty, price_no_number, price_negative, price_range,
    price_several_numbers, price_text, price_currency, price_malformed, price_ambiguous, price_too_large.
    """
    if isinstance(value, bool):
        raise PriceError("price_no_number")
    currency = currency.upper() if currency else None
    if isinstance(value, (int, float, Decimal)):
        return Price(tidy_amount(_from_number(value), currency), currency)
    text, untaxed = str(value), False
    usual = _USUAL.fullmatch(text) if decimal != "," else None
    if usual:  # as most are written: the rules below say the same of it, only slower
        number, found = usual[2], find_sign(usual[1]) if usual[1] else None
    else:
        text = _plain(text)
        if not text:
            raise PriceError("price_empty")
        if not text[-1].isdigit():
            text, taxed = without_notes(text)
            untaxed = taxed is False
        text = _NO_CENTS.sub(lambda m: m["mark"] + "00" if m["mark"] in (".", ",") else "", text)
        if scientific := _SCIENTIFIC.fullmatch(text):
            return _from_scientific(scientific, currency, decimal)
        text = _in_currency(text, currency) or text
        _refuse_what_is_no_single_price(text, currency)
        number, found = _strict(text, currency) or _with_price_parser(text)
    if found is not None and (not found.codes or (currency is not None and currency not in found.codes)):
        raise PriceError("price_currency")
    named = next(iter(found.codes)) if found and len(found.codes) == 1 else found.usual if found else None
    known = currency or (named if named and is_currency(named) else None)
    amount = Decimal(number.replace(",", "")) if usual else tidy_amount(read_amount(number, known, decimal), known)
    return Price(amount, known, _label(found, text, number), untaxed=untaxed)


def _label(found: Sign | None, text: str, number: str) -> str | None:
    """The currency that a text names, for counting: its code, `USD` for `$` and `JPY` for `¥`, else the sign itself."""
    if found is None or found.usual:
        return found.usual if found else None
    sign = text.replace(number, " ").strip()
    return {"$": "USD", "¥": "JPY"}.get(sign) or sign_key(sign)


def _from_number(value: int | float | Decimal) -> Decimal:
    amount = Decimal(value) if isinstance(value, int) else Decimal(str(value))
    if not amount.is_finite():
        raise PriceError("price_no_number")
    if amount < 0:
        raise PriceError("price_negative")
    return amount


def _from_scientific(match: re.Match[str], currency: str | None, decimal: DecimalMark | None) -> Price:
    """The amount of `1,99E+02`: the mark behind a first digit is that of decimals, whatever it is."""
    check_mark(match["mark"] or "", "", decimal)
    part, power = match["part"] or "", int(match["power"])
    amount = Decimal(f"{match['first']}.{part or 0}").scaleb(power)
    rounded = len(part) - power < decimals(currency) and amount != 0
    return Price(tidy_amount(amount, currency), currency, None, rounded)


def _plain(text: str) -> str:
    """ASCII digits, plain spaces and apostrophes, without what is not seen."""
    if not text.isascii() or "`" in text:
        text = _RAISED_NOTE.sub("", text)
        if any(c.isdigit() and not c.isdecimal() for c in text):
            raise PriceError("price_malformed")  # 12⁹⁹ is no 1299
        text = in_form("NFKC", text)
        text = "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text)
        text = text.translate(_PLAIN_MARKS)
        # Bidirectional and zero-width marks come with prices from right-to-left shops.
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return " ".join(text.split())


def _in_currency(text: str, currency: str | None) -> str | None:
    """The price in the column's currency, of one that is written in two: "10,00 €" of "19,56 лв. / 10,00 €"."""
    parts = _BESIDE.split(text.rstrip(") "))
    if currency is None or len(parts) != 2:
        return None
    found = [_strict(part, currency) for part in parts]
    codes = [one[1].codes if one is not None and one[1] is not None else frozenset() for one in found]
    own = [currency in some for some in codes]
    return parts[own.index(True)] if all(codes) and own.count(True) == 1 else None


def _refuse_what_is_no_single_price(text: str, currency: str | None) -> None:
    if currency != "CRC" and _CENTS.search(text):
        raise PriceError("price_text")
    numbers = _split_numbers(text)
    if not numbers:
        raise PriceError("price_no_number")
    if len(numbers) > 1:
        joined = _JOINED.fullmatch(text[numbers[0].end() : numbers[1].start()].strip().casefold())
        signs = [joined[name] for name in ("before", "after") if joined[name]] if joined else []
        is_range = joined and len(numbers) == 2 and all(find_sign(sign) for sign in signs)
        raise PriceError("price_range" if is_range else "price_several_numbers")
    before = text[: numbers[0].start()]
    if any(dash in before for dash in _DASHES) or (text.startswith("(") and text.endswith(")")):
        raise PriceError("price_negative")


def _split_numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text; digits with spaces between are one number only in groups of three."""
    found: list[re.Match[str]] = []
    for match in _NUMBER.finditer(text):
        if " " in match[0] and not (GROUPED.fullmatch(match[0])):
            found += re.compile(r"\d(?:[\d.,']*\d)?").finditer(text, match.start(), match.end())
        else:
            found.append(match)
    return found


def _strict(text: str, currency: str | None) -> tuple[str, Sign | None] | None:
    match = _STRICT.fullmatch(text)
    if match is None:
        return None
    common: Sign | None = None
    for name in ("before", "after"):
        sign = match[name].strip()
        if not sign:
            continue
        meaning = _meaning(sign, currency, touches=name == "after" and not match[name].startswith(" "))
        if meaning is None:
            return None
        common = meaning if common is None else both(common, meaning)
    return match["number"], common  # "$ 12 EUR" has no common code


def _meaning(sign: str, currency: str | None, *, touches: bool) -> Sign | None:
    """What a sign means; a single Latin letter only as the sign of the named currency, or of the rand before a number."""
    found = find_sign(sign)
    if found is None or len(sign) > 1 or not sign.isascii() or not sign.isalpha():
        return found
    if touches or sign.islower():  # 10k, 5m, 12L
        return None
    return found if currency in found.codes or (currency is None and sign == "R") else None


def _with_price_parser(text: str) -> tuple[str, Sign | None]:
    """The number and currency that price-parser finds, if they are all there is in the text."""
    from price_parser import Price as Found

    found = Found.fromstring(text)
    if found.amount_text is None or found.currency is None:
        raise PriceError("price_text")
    rest = text.replace(found.amount_text, "", 1).replace(found.currency, "", 1)
    if rest.strip(" .:"):
        raise PriceError("price_text")
    own = Sign(frozenset({found.currency}), found.currency)
    return found.amount_text.strip(), find_sign(found.currency) or own
