"""The amount that digits and marks are, without the noise that binary numbers and computations leave."""

from __future__ import annotations

import re
import struct
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from .currencies import decimals, dot_marks_decimals, only_comma

DecimalMark = Literal[".", ","]

GROUPED = re.compile(r"(?P<whole>\d{1,3}(?:(?P<group>[.,' ])\d{3})(?:(?P=group)\d{3})*)(?:(?P<mark>[.,])(?P<part>\d+))?")
_LAKHS = re.compile(r"(?P<whole>\d{1,2}(?:,\d{2})+,\d{3})(?:\.(?P<part>\d+))?")
_PLAIN = re.compile(r"(?P<whole>\d+)(?:(?P<mark>[.,])(?P<part>\d+))?")
_EXACT_DIGITS = 15  # a float holds so many digits exactly; more are the noise of a computation
_WRITTEN = 2  # decimals beyond the currency's that people still write (fuel at 1.459); more are computed


class PriceError(ValueError):
    """A text that is not a single price; `reason` is a short fixed word for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_amount(number: str, currency: str | None, decimal: DecimalMark | None) -> Decimal:
    """The amount of digits with marks: `1.890,50`, `12'345`, `1,23,456`, `12.5`.

    currency, decimal: of the column, where they are known; they settle what one mark before three digits means. Raises
    PriceError: price_ambiguous, price_malformed.
    """
    grouped = GROUPED.fullmatch(number)
    if grouped and grouped["mark"] is None and grouped["whole"].count(grouped["group"]) == 1 and grouped["group"] in ".,":
        return _one_mark_three_digits(number, grouped["group"], currency, decimal)
    if grouped and grouped["mark"] != grouped["group"]:
        check_mark(grouped["mark"] or "", grouped["group"], decimal)
        whole = re.sub(r"\D", "", grouped["whole"])
        return Decimal(f"{whole}.{grouped['part'] or 0}")
    if lakhs := _LAKHS.fullmatch(number):
        return Decimal(f"{lakhs['whole'].replace(',', '')}.{lakhs['part'] or 0}")
    plain = _PLAIN.fullmatch(number)
    if plain is None:
        raise PriceError("price_malformed")  # 1.2.3, 1,250,00
    check_mark(plain["mark"] or "", "", decimal)
    return Decimal(f"{plain['whole']}.{plain['part'] or 0}")


def check_mark(mark: str, group: str, decimal: DecimalMark | None) -> None:
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
    if decimals(currency) == 0:
        return Decimal(digits)
    if decimals(currency) == 3:
        # Written out, prices in dinars have three decimals; a comma marks them only where the language says so.
        if mark == "." or only_comma(currency):
            return as_decimals
        raise PriceError("price_ambiguous")
    if mark == "." and dot_marks_decimals(currency):
        raise PriceError("price_ambiguous")
    return Decimal(digits)


def tidy_amount(amount: Decimal, currency: str | None) -> Decimal:
    """An amount without the digits that only a binary number or a computation has.

    19.989999771118164 (float32) is 19.99, 15.991999999999999 (19.99 * 0.8) is 15.992, and 6.663333333333333 has more
    decimals than people write: it is rounded to the currency's minor unit. Raises PriceError from 10**15 on.
    """
    if amount >= 10**_EXACT_DIGITS:
        raise PriceError("price_too_large")
    minor = decimals(currency)
    if len(amount.as_tuple().digits) > 9 or _places(amount) > minor:
        amount = _without_noise(amount, minor)
    if _places(amount) > minor + _WRITTEN:
        amount = amount.quantize(Decimal(1).scaleb(-minor), ROUND_HALF_EVEN) or amount
    return amount


def _places(amount: Decimal) -> int:
    """Decimals after the point, without zeros at the end."""
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < 0:
        exponent = amount.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def _without_noise(amount: Decimal, minor: int) -> Decimal:
    number, digits = float(amount), len(amount.as_tuple().digits)
    if number != int(number) and struct.unpack("f", struct.pack("f", number))[0] == number:
        import numpy as np

        shortest = Decimal(str(np.float32(number)))  # the shortest decimal that is this float32
        # Few digits may have been written by hand, unless they hide an amount in the currency's own unit: from 65,536
        # on, float32 writes 75612.56 as 75612.5625.
        return shortest if digits > 9 or _places(shortest) <= minor else amount
    if digits > _EXACT_DIGITS:
        return Decimal(f"{number:.{_EXACT_DIGITS}g}")
    return amount
