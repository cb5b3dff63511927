"""What an ingest makes of values: unread prices, several currencies, words for nothing, HTML, rows that lost their fields."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from data.ingest.summary import summary
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError

PRICE = {"column": "price", "kind": "number"}


def take(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plain: dict[str, Any] = {"processes": 1, "validation": 0, "images": False}
    return ingest(IngestConfig(str(folder / "s.jsonl"), folder / "out", **(plain | settings)))


def answers(folder: Path) -> list[str]:
    catalogue = Catalogue(folder / "out")
    return [catalogue.task.answer(row) for row in catalogue.split("train")]


def test_a_price_that_cannot_be_read_is_missing_counted_and_listed(tmp_path: Path) -> None:
    prices = ["£4", "Call for price", "From £3", "N/A", "", "£5"]
    info = take(tmp_path, [{"title": f"Oak {i}", "price": price} for i, price in enumerate(prices)], currency="GBP")
    assert answers(tmp_path) == [
        "Title: Oak 0, Price: 4.0",
        *(f"Title: Oak {i}" for i in range(1, 5)),
        "Title: Oak 5, Price: 5.0",
    ]
    assert info["counts"]["rejected"] == {} and info["values"]["read_as_missing"] == {"price": {"N/A": 1}}
    assert info["values"]["unread"] == {"price": {"price_no_number": 1, "price_text": 1}}
    with open(tmp_path / "out" / "unread.csv", encoding="utf-8", newline="") as file:
        listed = [(row["row"], row["field"], row["value"], row["place"]) for row in csv.DictReader(file)]
    assert listed == [("2", "price", "Call for price", "s.jsonl:2"), ("3", "price", "From £3", "s.jsonl:3")]
    shown = summary(info, tmp_path / "out")
    assert "2 values of price could not be read" in shown and "--no-empty-words" in shown


def test_a_required_price_that_cannot_be_read_rejects_its_row(tmp_path: Path) -> None:
    rows = [{"title": "Oak", "price": price} for price in ("4", "free", "")]
    info = take(tmp_path, rows, fields={"title": "title", "price": PRICE | {"required": True}})
    assert info["counts"]["rejected"] == {"price_no_number": 1, "price_missing": 1}
    assert not (tmp_path / "out" / "unread.csv").exists()


def test_a_field_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    rows = [{"title": "Oak", "price": price} for price in ("$4", "$5", "")]
    with pytest.raises(UserError, match=r"no price of .* can be read: price_currency 2; correct"):
        take(tmp_path, rows, currency="EUR")


@pytest.mark.parametrize(
    "rows",
    [
        [{"price": "$40"}, {"price": "€40"}, {"price": "£40"}, {"price": "¥4,000"}],
        [{"price": "40", "currency": c} for c in ("USD", "EUR", "GBP", "JPY")],
        [{"price": {"amount": 40, "currency": c}} for c in ("USD", "EUR", "GBP", "JPY")],
        [{"price": 40, "Currency_Code": c} for c in ("$", "euro", "£", "jpy")],
    ],
)
def test_several_currencies_in_one_field_are_refused_with_their_counts(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{"title": f"Set {i}"} | row for i, row in enumerate([*rows, rows[0]])]
    with pytest.raises(UserError, match=r"several currencies: USD 2, EUR 1, GBP 1, JPY 1; .*--currency-rates"):
        take(tmp_path, rows)


@pytest.mark.parametrize(
    "prices", [("kr 10", "10 kr.", "SEK 20"), ("10 ريال", "SAR 20"), ("10 F CFA", "20 FCFA"), ("5 dollars", "$5")]
)
def test_signs_that_may_mean_one_currency_are_one(prices: tuple[str, ...], tmp_path: Path) -> None:
    info = take(tmp_path, [{"title": f"Set {k}", "price": price} for k, price in enumerate(prices)])
    assert info["counts"]["kept"] == len(prices) and "unread" not in info["values"]


def test_signs_that_cannot_mean_one_currency_are_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kr 1, EUR 1"):
        take(tmp_path, [{"title": "A", "price": "10 kr"}, {"title": "B", "price": "10 EUR"}])


def test_a_column_of_prices_that_can_be_read_both_ways_is_refused_with_what_settles_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"price_ambiguous 2; 1.299 may be one or a thousand: name the currency with --currency"
    ):
        take(tmp_path, [{"title": "A", "price": "1.299"}, {"title": "B", "price": "2.499"}])


def test_a_named_currency_keeps_its_own_prices_only(tmp_path: Path) -> None:
    rows = [{"title": f"Set {i}", "price": 40, "currency": c} for i, c in enumerate(("USD", "EUR", None))]
    info = take(tmp_path, rows, currency="USD")
    assert answers(tmp_path) == ["Title: Set 0, Price: 40.0", "Title: Set 1", "Title: Set 2, Price: 40.0"]
    assert info["values"]["unread"] == {"price": {"price_currency": 1}}


@pytest.mark.parametrize("form", ["yaml", "csv"])
def test_rates_turn_every_price_into_the_named_currency(form: str, tmp_path: Path) -> None:
    text = {"yaml": "EUR: 1.1\nJPY: 0.0067\n", "csv": "code;rate\nEUR;1.1\njpy;0.0067\n"}[form]
    (tmp_path / f"rates.{form}").write_text(text)
    prices = ["$40.00", "€40,50", "¥4,000", "12", "£3"]
    rows = [{"title": f"Set {i}", "price": price} for i, price in enumerate(prices)]
    info = take(tmp_path, rows, currency="USD", currency_rates=tmp_path / f"rates.{form}")
    assert [row["price"] for row in Catalogue(tmp_path / "out").split("train")] == [40.0, 44.55, 26.8, 12.0, None]
    assert info["values"]["unread"] == {"price": {"price_no_rate": 1}}
    assert info["settings"]["currency_rates"] == {"EUR": 1.1, "JPY": 0.0067}


@pytest.mark.parametrize("text", ["EURO: 1", "EUR: -1", "EUR: x", "EUR: nan", "EUR: 0"])
def test_rates_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rates.yaml").write_text(text)
    with pytest.raises(UserError, match=r"--currency-rates .*rates\.yaml"):
        take(tmp_path, [{"title": "a", "price": 1}], currency="USD", currency_rates=tmp_path / "rates.yaml")


def test_words_for_nothing_are_missing_in_every_column_and_can_be_kept(tmp_path: Path) -> None:
    rows = [
        {"title": "Rug", "category": "None", "price": "10", "colour": "nan"},
        {"title": "nan", "category": "Mats", "price": "-", "colour": "red"},
    ]
    fields = {"title": "title", "category": {"column": "category", "kind": "category"}, "price": PRICE}
    take(tmp_path, rows, fields=fields)
    assert answers(tmp_path) == ["Title: Rug, Price: 10.0", "Category: Mats"]
    assert [row["colour"] for row in Catalogue(tmp_path / "out").split("train")] == [None, "red"]
    (tmp_path / "kept").mkdir()
    fields.pop("price")
    take(tmp_path / "kept", rows, fields=fields, empty_words=False)
    assert answers(tmp_path / "kept") == ["Title: Rug, Category: None", "Title: nan, Category: Mats"]


def test_a_code_that_says_nothing_joins_no_rows(tmp_path: Path) -> None:
    info = take(tmp_path, [{"title": f"Hat {i}", "sku": "N/A"} for i in range(4)], code="sku")
    assert info["products"]["products"] == 4


def test_lists_objects_and_html_become_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"title": ["Night light"], "category": [["Home", "Lighting"]], "price": {"amount": 9, "currency": "EUR"}},
        {"title": "<b>Lamp</b> &amp; shade", "category": '["Home"]', "price": "<span>&euro;</span>12,50"},
    ]
    take(tmp_path, rows)
    assert answers(tmp_path) == [
        "Title: Night light, Category: Home > Lighting, Price: 9.0",
        "Title: Lamp & shade, Category: Home, Price: 12.5",
    ]


def test_html_can_be_kept(tmp_path: Path) -> None:
    take(tmp_path, [{"title": "<b>Lamp</b>"}], strip_html=False)
    assert answers(tmp_path) == ["Title: <b>Lamp</b>"]


def test_rows_that_lost_most_of_their_fields_are_reported(tmp_path: Path) -> None:
    rows = [
        {"title": "Hat", "category": "Hats", "price": "5"},
        *({"title": "", "category": "", "price": "25"} for _ in range(3)),
    ]
    info = take(tmp_path, rows)
    assert info["values"]["rows_without_most_fields"] == 3
    assert "3 of 4 rows have a value for fewer than half of their fields, the first is row 2" in summary(info, tmp_path / "out")
