"""Prices as shops write them: read exactly, or refused with the reason."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ingest.prices import DecimalMark, PriceError, parse_price

READ = {
    "1.890,50 €": "1890.50",
    "$1,250.00": "1250.00",
    "12'345.-": "12345",
    "12’345.–": "12345",
    "CHF 1'234.50": "1234.50",
    "Fr. 89.90": "89.90",
    "1 890,50 Kč": "1890.50",
    "99 zł": "99",
    "1 234,56 zł": "1234.56",
    "R$ 1.234,50": "1234.50",
    "99,-": "99",
    "1.000,-": "1000",
    "1,299.-": "1299",
    "kr 1 200:-": "1200",
    "1200 kr": "1200",
    "1.250 €": "1250",
    "€1.250": "1250",
    "€ 1.250,00": "1250",
    "1,250": "1250",
    "12": "12",
    "12.5": "12.5",
    "12.50": "12.50",
    "1,2": "1.2",
    "12,5 €": "12.5",
    "1 234 567,89": "1234567.89",
    "1\u202f234,50 €": "1234.50",
    "1\u00a0234": "1234",
    "₹1,23,456.00": "123456",
    "Rs. 499": "499",
    "USD 10": "10",
    "10 USD": "10",
    "$10 USD": "10",
    "US$ 49.99": "49.99",
    "A$ 20": "20",
    "£1,299.99": "1299.99",
    "EUR12": "12",
    "12 EUR": "12",
    "12 Euro": "12",
    "¥1,500": "1500",
    "￥12,800": "12800",
    "₩59,000": "59000",
    "2 990 Ft": "2990",
    "Ft 2 990": "2990",
    "100 лв": "100",
    "₽ 1 500": "1500",
    "１２３": "123",
    "＄１２．５０": "12.50",
    "٣٤٥": "345",
    "0": "0",
    "0.00": "0",
    "0.999": "0.999",
    "1234.567": "1234.567",
    "1.000.000": "1000000",
    "1,000,000.5": "1000000.5",
    " 24.90 ": "24.90",
    "\u200e24.90\u200f": "24.90",
}
REFUSED = {
    "": "price_empty",
    "   ": "price_empty",
    "free": "price_no_number",
    "Gratis!": "price_no_number",
    "N/A": "price_no_number",
    "nan": "price_no_number",
    "$": "price_no_number",
    "-5": "price_negative",
    "−5,00 €": "price_negative",
    "$-12.00": "price_negative",
    "(12.00)": "price_negative",
    "€ 12 – € 15": "price_range",
    "$10 - $20": "price_range",
    "10-20": "price_range",
    "10 to 20": "price_range",
    "was $20 now $10": "price_several_numbers",
    "2 for $10": "price_several_numbers",
    "10 20": "price_several_numbers",
    "1e3": "price_several_numbers",
    "from $12": "price_text",
    "ab 12 €": "price_text",
    "$5 each": "price_text",
    "12.50 €*": "price_text",
    "10 %": "price_text",
    "10k": "price_text",
    "12-": "price_text",
    "Price: 12": "price_text",
    "EUR 10 USD": "price_currency",
    "1.2.3": "price_malformed",
    "1,250,00": "price_malformed",
    "1.250": "price_ambiguous",
    "$1.250": "price_ambiguous",
    "KWD 1.250": "price_ambiguous",
    "12345678901234567890": "price_too_large",
}


def test_the_tables_are_as_long_as_asked() -> None:
    assert len(READ) + len(REFUSED) >= 60


@pytest.mark.parametrize(("text", "amount"), READ.items())
def test_a_price_is_read(text: str, amount: str) -> None:
    assert parse_price(text).amount == Decimal(amount)


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_what_is_no_single_price_is_refused(text: str, reason: str) -> None:
    with pytest.raises(PriceError) as error:
        parse_price(text)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("text", "decimal", "amount"),
    [("1.250", ".", "1.25"), ("1.250", ",", "1250"), ("1,250", ",", "1.25"), ("1,250", ".", "1250"), ("12,50", ",", "12.50")],
)
def test_the_decimal_mark_of_the_column_decides_about_three_digits(text: str, decimal: DecimalMark, amount: str) -> None:
    assert parse_price(text, decimal=decimal).amount == Decimal(amount)


@pytest.mark.parametrize(("text", "decimal"), [("12,50", "."), ("12.50", ","), ("1.250,00", ".")])
def test_the_wrong_decimal_mark_is_refused(text: str, decimal: DecimalMark) -> None:
    with pytest.raises(PriceError, match="price_malformed"):
        parse_price(text, decimal=decimal)


@pytest.mark.parametrize(
    ("text", "currency", "fits"),
    [
        ("$12", "USD", True),
        ("$12", "CAD", True),
        ("$12", "EUR", False),
        ("€12", "USD", False),
        ("12", "EUR", True),
        ("1.250", "EUR", True),
        ("1.250", "USD", None),
        ("100 лв", "USD", False),
    ],
)
def test_the_currency_of_the_column_must_agree(text: str, currency: str, fits: bool | None) -> None:
    if fits:
        assert parse_price(text, currency=currency).currency == currency
    else:
        with pytest.raises(PriceError, match="price_ambiguous" if fits is None else "price_currency"):
            parse_price(text, currency=currency)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(True, "price_no_number"), (math.nan, "price_no_number"), (math.inf, "price_no_number"), (-1, "price_negative")],
)
def test_numbers_are_checked_too(value: float, reason: str) -> None:
    with pytest.raises(PriceError, match=reason):
        parse_price(value)


@settings(deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(0, 99),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", "."), ("", "."), ("", ",")]),
)
def test_a_written_price_reads_back(whole: int, cents: int, marks: tuple[str, str]) -> None:
    group, mark = marks
    text = f"{whole:,}".replace(",", group) + f"{mark}{cents:02d}"
    assert parse_price(text).amount == Decimal(f"{whole}.{cents:02d}")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_price(text).amount >= 0
    except PriceError as error:
        assert error.reason.startswith("price_")
