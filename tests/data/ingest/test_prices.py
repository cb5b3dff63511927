"""Prices as shops write them: read exactly, or refused with the reason."""

from __future__ import annotations

import json
import math
import re
import runpy
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.amounts import DecimalMark, PriceError
from data.ingest.prices import Price, parse_price
from tests.helpers.paths import ROOT

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
    "KWD 12.500": "12.500",
    "12.500 د.ك.": "12.500",
    "TND 12,500": "12.500",
    "15 000 FCFA": "15000",
    "R 499.00": "499",
    "US $ 1,299.00": "1299",
    "MXN $1,299.00": "1299",
    "15.991999999999999": "15.992",
    "0.30000000000000004": "0.3",
    "19.989999771118164": "19.99",
    "6.666666666666667": "6.67",
    "19,99 € inkl. MwSt.": "19.99",
    "19,99 € (inkl. 19 % MwSt.)": "19.99",
    "19.99 incl. VAT": "19.99",
    "₹499 (Inclusive of all taxes)": "499",
    "99 kr inkl. moms": "99",
    "12,50€TTC": "12.50",
    "12,50 € TTC": "12.50",
    "12.50TTC": "12.50",
    "19,99 € IVA incluido": "19.99",
    "1,980円(税込)": "1980",
    "12.50 €*": "12.50",
    "99,-*": "99",
    "19,90 €¹": "19.90",
    "19,99 € inkl. 19 % MwSt., zzgl. Versand*": "19.99",
    "$12.50 + shipping": "12.50",
    "100 TL KDV dahil": "100",
    "250 Kč s DPH": "250",
    "12,50 zł brutto": "12.50",
}
UNTAXED = {
    "12.50 € excl. VAT": "12.50",
    "12.50 € zzgl. MwSt.": "12.50",
    "12,50 € + IVA": "12.50",
    "12,50 € HT": "12.50",
    "12,50 € IVA no incluido": "12.50",
    "250 Kč bez DPH": "250",
    "1,980円(税抜)": "1980",
    "12.50 USD net": "12.50",
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
    "99¢": "price_text",
    "10 to 20": "price_range",
    "was $20 now $10": "price_several_numbers",
    "2 for $10": "price_several_numbers",
    "10 20": "price_several_numbers",
    "1e3": "price_several_numbers",
    "from $12": "price_text",
    "ab 12 €": "price_text",
    "$5 each": "price_text",
    "12⁹⁹ €": "price_malformed",
    "12.50 VAT": "price_text",
    "19,99 € inkl. MwSt. / 15,99 € netto": "price_several_numbers",
    "12.50 € inkl. MwSt. ab 3": "price_several_numbers",
    "incl. VAT": "price_no_number",
    "12.50 incl. case": "price_text",
    "10 %": "price_text",
    "10k": "price_text",
    "12 all": "price_text",
    "12-": "price_text",
    "Price: 12": "price_text",
    "EUR 10 USD": "price_currency",
    "1.2.3": "price_malformed",
    "1,250,00": "price_malformed",
    "1.250": "price_ambiguous",
    "$1.250": "price_ambiguous",
    "KWD 1,250": "price_ambiguous",
    "12345678901234567890": "price_too_large",
}


@pytest.mark.parametrize(
    ("text", "amount", "rounded"),
    [
        ("1,99E+02", "199", True),
        ("1.99E+02", "199", True),
        ("2,5E+03", "2500", True),
        ("1.990000e+02", "199", False),
        ("1.9937e+02", "199.37", False),
        ("5.0E-01", "0.5", False),
        ("0.00E+00", "0", False),
    ],
)
def test_a_number_in_scientific_form_is_read_and_says_whether_it_may_hide_cents(text: str, amount: str, rounded: bool) -> None:
    assert parse_price(text) == Price(Decimal(amount), None, None, rounded)
    assert parse_price(text, currency="EUR").amount == Decimal(amount)


def test_a_number_in_scientific_form_keeps_the_decimal_mark_of_its_column() -> None:
    with pytest.raises(PriceError, match="price_malformed"):
        parse_price("1.99E+02", decimal=",")


def test_the_tables_are_as_long_as_asked() -> None:
    assert len(READ) + len(REFUSED) >= 60


@pytest.mark.parametrize(("text", "amount"), READ.items())
def test_a_price_is_read(text: str, amount: str) -> None:
    assert parse_price(text).amount == Decimal(amount)


@pytest.mark.parametrize(("text", "amount"), UNTAXED.items())
def test_a_price_without_tax_says_so(text: str, amount: str) -> None:
    price = parse_price(text)
    assert (price.amount, price.untaxed) == (Decimal(amount), True)


def test_a_price_with_tax_or_without_a_word_about_it_is_not_untaxed() -> None:
    assert not any(parse_price(text).untaxed for text in READ)


def test_notes_behind_a_price_may_have_any_length() -> None:
    with pytest.raises(PriceError):
        parse_price("12 € " + "inkl. " * 100_000)


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


# As shops of the country write it, with the currency that the user names for the column.
LOCAL = {
    "RM 1,250.00": ("MYR", "1250"), "₱1,299.00": ("PHP", "1299"), "1 290 руб.": ("RUB", "1290"), "99р.": ("RUB", "99"),
    "12,000원": ("KRW", "12000"), "1.299,00 TL": ("TRY", "1299"), "12 500 F CFA": ("XOF", "12500"), "500 FCFA": ("XAF", "500"),
    "Rp 1.250.000": ("IDR", "1250000"), "Rp59.000": ("IDR", "59000"), "Rs. 1,499/-": ("INR", "1499"), "₹1,499": ("INR", "1499"),
    "Rs 1,499": ("PKR", "1499"), "R1 299,00": ("ZAR", "1299"), "59,90 lei": ("RON", "59.90"), "59,90 Lei": ("MDL", "59.90"),
    "S/ 45.50": ("PEN", "45.50"), "S/. 45.50": ("PEN", "45.50"), "NT$ 990": ("TWD", "990"), "350.000 đ": ("VND", "350000"),
    "59.000₫": ("VND", "59000"), "₦25,000": ("NGN", "25000"), "1 234,50 zł": ("PLN", "1234.50"), "2 990 Ft": ("HUF", "2990"),
    "129 kr": ("SEK", "129"), "129 kr.": ("DKK", "129"), "$1,299.00": ("MXN", "1299"), "$12.990": ("CLP", "12990"),
    "¥1.250": ("JPY", "1250"), "¥1,250": ("CNY", "1250"), "1,250円": ("JPY", "1250"), "88元": ("TWD", "88"),
    "ر.س 45": ("SAR", "45"), "٤٥ درهم": ("AED", "45"), "K10": ("ZMW", "10"), "Q12.50": ("GTQ", "12.50"),
    "৳1,200": ("BDT", "1200"),
    "1,200/=": ("KES", "1200"), "Ksh 1,200": ("KES", "1200"), "1 290 ₸": ("KZT", "1290"), "12 грн": ("UAH", "12"),
}  # fmt: skip


def test_a_sign_of_cents_is_the_colon_only_before_a_number_or_in_its_column() -> None:
    assert parse_price("¢99") == parse_price("99 ¢", currency="CRC") == Price(Decimal(99), "CRC", "CRC")


BOTH = [
    ("19,56 лв. / 10,00 €", {"EUR": "10", "BGN": "19.56", "USD": "price_range", None: "price_range"}),
    ("1.299,00 € (2.540,62 лв.)", {"EUR": "1299", "BGN": "2540.62"}),
    ("US$ 10 | CA$ 14", {"CAD": "14", "USD": "10"}),
    ("10 € / 12 €", {"EUR": "price_range"}),  # a range
    ("10 / 12 €", {"EUR": "price_range"}),
    ("€ 10 - $ 12", {"EUR": "price_range"}),
]


@pytest.mark.parametrize(("text", "answers"), BOTH)
def test_a_price_in_two_currencies_is_read_in_that_of_the_column(text: str, answers: dict[str | None, str]) -> None:
    for currency, answer in answers.items():
        if answer.startswith("price_"):
            with pytest.raises(PriceError, match=answer):
                parse_price(text, currency=currency)
        else:
            found = parse_price(text, currency=currency)
            assert (found.amount, found.currency) == (Decimal(answer), currency)


@pytest.mark.parametrize(("text", "currency", "amount"), [(text, *found) for text, found in LOCAL.items()])
def test_naming_the_right_currency_reads_its_own_sign(text: str, currency: str, amount: str) -> None:
    price = parse_price(text, currency=currency)
    assert (price.amount, price.currency) == (Decimal(amount), currency)


@pytest.mark.parametrize(
    ("text", "currency"),
    [("RM 12", "USD"), ("R 12", "RUB"), ("12 kr", "EUR"), ("NT$12", "USD"), ("12원", "JPY"), ("£12", "INR")],
)
def test_another_currency_s_sign_is_refused(text: str, currency: str) -> None:
    with pytest.raises(PriceError, match=r"price_currency|price_text"):
        parse_price(text, currency=currency)


@pytest.mark.parametrize("letter", ["k", "K", "m", "L", "D"])
def test_a_letter_after_a_number_is_no_currency(letter: str) -> None:
    for currency in (None, "ZMW", "HNL", "GMD"):
        with pytest.raises(PriceError):
            parse_price(f"10{letter}", currency=currency)


@given(st.integers(1, 10**7), st.sampled_from([0.8, 0.9, 0.75, 1.1, 1.19]))
def test_binary_noise_never_reaches_an_amount(cents: int, factor: float) -> None:
    exact = Decimal(cents) / 100 * Decimal(str(factor))
    for value in (cents / 100 * factor, repr(cents / 100 * factor)):
        assert parse_price(value, decimal=".").amount in (exact, round(exact, 2))
    assert parse_price(float(np.float32(cents / 100))).amount == Decimal(str(np.float32(cents / 100)))


def test_a_large_float32_with_few_digits_is_its_shortest_decimal_too() -> None:
    assert parse_price(float(np.float32(75612.56))).amount == Decimal("75612.56")  # 75612.5625
    assert parse_price("0.0625").amount == Decimal("0.0625")  # a float32 as well, but no shorter decimal is it


@given(
    st.from_regex(r"[$€£]?[0-9]{1,9}(\.[0-9]{1,2})?", fullmatch=True, alphabet=st.characters(codec="utf-8")),
    st.sampled_from([None, "USD", "EUR", "JPY", "KWD", "TWD"]),
)
def test_the_short_way_says_what_the_rules_say(text: str, currency: str | None) -> None:
    def read(written: str) -> Price | str:
        try:
            return parse_price(written, currency=currency)
        except PriceError as error:
            return error.reason

    assert read(text) == read(f" {text}")  # a blank before it goes the long way


def test_the_table_of_currencies_is_cldr_s() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_currencies.py"))
    assert json.loads(script["OUTPUT"].read_text(encoding="utf-8")) == json.loads(json.dumps(script["table"]()))


@pytest.mark.parametrize(
    ("value", "reason"),
    [(True, "price_no_number"), (math.nan, "price_no_number"), (math.inf, "price_no_number"), (-1, "price_negative")],
)
def test_numbers_are_checked_too(value: float, reason: str) -> None:
    with pytest.raises(PriceError, match=reason):
        parse_price(value)


@given(
    st.integers(0, 10**9),
    st.integers(0, 99),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", "."), ("", "."), ("", ",")]),
)
def test_a_written_price_reads_back(whole: int, cents: int, marks: tuple[str, str]) -> None:
    group, mark = marks
    text = f"{whole:,}".replace(",", group) + f"{mark}{cents:02d}"
    assert parse_price(text).amount == Decimal(f"{whole}.{cents:02d}")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_price(text).amount >= 0
    except PriceError as error:
        assert error.reason.startswith("price_")


@pytest.mark.parametrize("currency", [None, "USD", "EUR", "JPY", "KWD"])
@pytest.mark.parametrize("decimal", [None, "."])
def test_a_price_as_most_are_written_is_what_the_rules_say_of_it(
    currency: str | None, decimal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        f"{sign}{amount}"
        for sign in ("", "$", "€")
        for amount in ("7", "12.50", "1,234.50", "12,345,678.90", "0,001.25", "999999999")
    ]

    def read(text: str) -> Any:
        try:
            return parse_price(text, currency=currency, decimal=decimal)
        except PriceError as error:
            return error.reason

    quickly = [read(text) for text in texts]
    monkeypatch.setattr("data.ingest.prices._USUAL", re.compile(r"(?!)()()"))
    assert quickly == [read(text) for text in texts]
