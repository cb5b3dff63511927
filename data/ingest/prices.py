"""Prices as people write them, read or refused, never guessed.

A strict grammar comes first: one number, at most one currency before or after it. What it does not match goes to
price-parser, which knows more currencies; its answer counts only if nothing is left over in the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

DecimalMark = Literal[".", ","]

_SYMBOLS = {
    "€": "EUR", "£": "GBP", "₹": "INR", "₽": "RUB", "₩": "KRW", "₺": "TRY", "₪": "ILS", "₫": "VND", "₴": "UAH", "฿": "THB",
    "zł": "PLN", "kč": "CZK", "ft": "HUF", "fr.": "CHF", "sfr.": "CHF", "r$": "BRL", "us$": "USD", "c$": "CAD", "ca$": "CAD",
    "a$": "AUD", "au$": "AUD", "nz$": "NZD", "hk$": "HKD", "s$": "SGD", "mx$": "MXN", "euro": "EUR", "euros": "EUR",
    "rs.": "INR", "rs": "INR", "元": "CNY", "円": "JPY", "лв": "BGN", "dkr": "DKK", "nkr": "NOK", "skr": "SEK",
}  # fmt: skip
# One sign, several currencies: it agrees with each of them and names none.
_SHARED = {
    "$": {"USD", "CAD", "AUD", "NZD", "HKD", "SGD", "MXN", "TWD", "ARS", "CLP", "COP"},
    "¥": {"JPY", "CNY"},
    "￥": {"JPY", "CNY"},
    "kr": {"SEK", "NOK", "DKK", "ISK"},
    "kr.": {"SEK", "NOK", "DKK", "ISK"},
}
_CODES = frozenset(
    {"AED", "ARS", "AUD", "BGN", "BHD", "BRL", "CAD", "CHF", "CLP", "CNY", "COP", "CZK", "DKK", "EGP", "EUR", "GBP", "HKD",
     "HUF", "IDR", "ILS", "INR", "ISK", "JOD", "JPY", "KRW", "KWD", "MAD", "MXN", "MYR", "NOK", "NZD", "OMR", "PEN", "PHP",
     "PKR", "PLN", "QAR", "RON", "RUB", "SAR", "SEK", "SGD", "THB", "TND", "TRY", "TWD", "UAH", "USD", "VND", "ZAR"}
)  # fmt: skip
# Where a dot marks the decimals, "1.250" may be one and a quarter or a thousand: not ours to choose.
_DOT_DECIMALS = {
    "USD", "GBP", "CAD", "AUD", "NZD", "HKD", "SGD", "INR", "JPY", "CNY", "KRW", "ILS", "THB", "MXN", "TWD", "MYR", "PHP",
    "CHF", "AED", "SAR", "PKR", "EGP", "QAR",
}  # fmt: skip
_THREE_DECIMALS = {"BHD", "JOD", "KWD", "OMR", "TND"}

_DIGITS = r"\d(?:[\d.,' ]*\d)?"
_NUMBER = re.compile(_DIGITS)
_DASHES = "-–—‒−"
# A dash for "no cents": 12.-  99,–  1200:-
_NO_CENTS = re.compile(rf"(?<=\d)\s*(?P<mark>[.,:])\s?[{_DASHES}]{{1,2}}(?!\d)")
_SIGNS = "|".join(sorted((re.escape(s) for s in [*_SYMBOLS, *_SHARED]), key=len, reverse=True))
_CURRENCY = rf"(?:{_SIGNS}|[A-Za-z]{{3}})"
_STRICT = re.compile(rf"(?P<before>{_CURRENCY})?\s*(?P<number>{_DIGITS})\s*(?P<after>{_CURRENCY})?", re.IGNORECASE)
_GROUPED = re.compile(r"(?P<whole>\d{1,3}(?:(?P<group>[.,' ])\d{3})(?:(?P=group)\d{3})*)(?:(?P<mark>[.,])(?P<part>\d+))?")
_LAKHS = re.compile(r"(?P<whole>\d{1,2}(?:,\d{2})+,\d{3})(?:\.(?P<part>\d+))?")
_PLAIN = re.compile(r"(?P<whole>\d+)(?:(?P<mark>[.,])(?P<part>\d+))?")
_PLAIN_MARKS = str.maketrans("’ʼ`´٫٬", "''''.,")
_MAX_DIGITS = 15  # beyond this a float is no longer exact


class PriceError(ValueError):
    """A text that is not a single price; `reason` is a short fixed word for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Price:
    """An amount and the ISO code of its currency where the text names one."""

    amount: Decimal
    currency: str | None = None


def parse_price(value: Any, *, currency: str | None = None, decimal: DecimalMark | None = None) -> Price:
    """Read one price from a number or from the text of one field.

    `currency` is the ISO code the column is in; a text with another currency is refused. `decimal` is the
    decimal mark of the column; without it "1.250" of a dot-decimal or unknown currency is refused.

    Raises PriceError with one of the reasons price_empty, price_no_number, price_negative, price_range,
    price_several_numbers, price_text, price_currency, price_malformed, price_ambiguous, price_too_large.
    """
    if isinstance(value, bool):
        raise PriceError("price_no_number")
    if isinstance(value, (int, float, Decimal)):
        return Price(_checked(_from_number(value)), currency)
    text = _plain(str(value))
    if not text:
        raise PriceError("price_empty")
    _refuse_what_is_no_single_price(text)
    number, found = _strict(text) or _with_price_parser(text)
    if found is not None and currency is not None and currency.upper() not in found:
        raise PriceError("price_currency")
    named = next(iter(found)) if found and len(found) == 1 else None
    known = currency.upper() if currency else named if named in _CODES else None
    return Price(_checked(_amount(number, known, decimal)), known)


def _from_number(value: int | float | Decimal) -> Decimal:
    amount = Decimal(value) if isinstance(value, int) else Decimal(str(value))
    if not amount.is_finite():
        raise PriceError("price_no_number")
    if amount < 0:
        raise PriceError("price_negative")
    return amount


def _checked(amount: Decimal) -> Decimal:
    if len(amount.as_tuple().digits) > _MAX_DIGITS or amount >= 10**_MAX_DIGITS:
        raise PriceError("price_too_large")
    return amount


def _plain(text: str) -> str:
    """ASCII digits, plain spaces and apostrophes, `.00` where a dash stands for "no cents"."""
    if not text.isascii() or "`" in text:
        text = unicodedata.normalize("NFKC", text)
        text = "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text)
        text = text.translate(_PLAIN_MARKS)
        # Bidirectional and zero-width marks come with prices from right-to-left shops.
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return _NO_CENTS.sub(lambda m: "" if m["mark"] == ":" else m["mark"] + "00", " ".join(text.split()))


def _refuse_what_is_no_single_price(text: str) -> None:
    numbers = _split_numbers(text)
    if not numbers:
        raise PriceError("price_no_number")
    if len(numbers) > 1:
        between = text[numbers[0].end() : numbers[1].start()].strip()
        words = re.sub(_SIGNS, "", between, flags=re.IGNORECASE).strip().casefold()
        joined = words.strip() in {*_DASHES, "~", "to", "bis", "à", "a", "/", "..", "...", "and", "or"}
        raise PriceError("price_range" if joined and len(numbers) == 2 else "price_several_numbers")
    before = text[: numbers[0].start()]
    if any(dash in before for dash in _DASHES) or (text.startswith("(") and text.endswith(")")):
        raise PriceError("price_negative")


def _split_numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text; digits with spaces between are one number only in groups of three."""
    found: list[re.Match[str]] = []
    for match in _NUMBER.finditer(text):
        if " " in match[0] and not (_GROUPED.fullmatch(match[0])):
            found += re.compile(r"\d(?:[\d.,']*\d)?").finditer(text, match.start(), match.end())
        else:
            found.append(match)
    return found


def _strict(text: str) -> tuple[str, set[str] | None] | None:
    match = _STRICT.fullmatch(text)
    if match is None:
        return None
    signs = [sign for sign in (match["before"], match["after"]) if sign]
    meanings = [_currencies(sign) for sign in signs]
    if any(meaning is None for meaning in meanings):
        return None
    common: set[str] | None = None
    for meaning in meanings:
        assert meaning is not None
        common = meaning if common is None else common & meaning
    if common is not None and not common:
        raise PriceError("price_currency")  # "$ 12 EUR"
    return match["number"], common


def _currencies(sign: str) -> set[str] | None:
    """The ISO codes that a sign may stand for; None where it is no currency."""
    folded = sign.casefold()
    if folded in _SHARED:
        return _SHARED[folded]
    if folded in _SYMBOLS:
        return {_SYMBOLS[folded]}
    return {sign.upper()} if sign.upper() in _CODES else None


def _with_price_parser(text: str) -> tuple[str, set[str] | None]:
    """The number and currency that price-parser finds, if they are all there is in the text."""
    from price_parser import Price as Found

    found = Found.fromstring(text)
    if found.amount_text is None or found.currency is None:
        raise PriceError("price_text")
    rest = text.replace(found.amount_text, "", 1).replace(found.currency, "", 1)
    if rest.strip(" .:"):
        raise PriceError("price_text")
    return found.amount_text.strip(), _currencies(found.currency) or {found.currency}


def _amount(number: str, currency: str | None, decimal: DecimalMark | None) -> Decimal:
    grouped = _GROUPED.fullmatch(number)
    if grouped and grouped["mark"] is None and grouped["whole"].count(grouped["group"]) == 1 and grouped["group"] in ".,":
        return _one_mark_three_digits(number, grouped["group"], currency, decimal)
    if grouped and grouped["mark"] != grouped["group"]:
        _check_mark(grouped["mark"] or "", grouped["group"], decimal)
        whole = re.sub(r"\D", "", grouped["whole"])
        return Decimal(f"{whole}.{grouped['part'] or 0}")
    if lakhs := _LAKHS.fullmatch(number):
        return Decimal(f"{lakhs['whole'].replace(',', '')}.{lakhs['part'] or 0}")
    plain = _PLAIN.fullmatch(number)
    if plain is None:
        raise PriceError("price_malformed")  # 1.2.3, 1,250,00
    _check_mark(plain["mark"] or "", "", decimal)
    return Decimal(f"{plain['whole']}.{plain['part'] or 0}")


def _check_mark(mark: str, group: str, decimal: DecimalMark | None) -> None:
    """The marks in a number must agree with the column's."""
    if decimal is not None and ((mark and mark != decimal) or group == decimal):
        raise PriceError("price_malformed")


def _one_mark_three_digits(number: str, mark: str, currency: str | None, decimal: DecimalMark | None) -> Decimal:
    """`1.250` or `1,250`: thousands or three decimals."""
    digits = number.replace(mark, "")
    as_decimals = Decimal(number.replace(mark, "."))
    if decimal is not None:
        return as_decimals if mark == decimal else Decimal(digits)
    if number.startswith("0"):
        return as_decimals
    if currency in _THREE_DECIMALS or (mark == "." and (currency is None or currency in _DOT_DECIMALS)):
        raise PriceError("price_ambiguous")
    return Decimal(digits)
