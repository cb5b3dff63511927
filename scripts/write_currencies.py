"""Write data/ingest/currencies.json: the signs, decimals and decimal mark of every currency, by CLDR's tables.

    python scripts/write_currencies.py

Currencies that were legal tender at any time since 2010 are listed. CLDR is read through babel (the extra `dev`): a price
is then read without it, and as fast as before.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from pathlib import Path

from babel import Locale, UnknownLocaleError, localedata
from babel.core import get_global
from babel.languages import get_official_languages
from babel.numbers import get_currency_precision, get_territory_currencies

SINCE = datetime.date(2010, 1, 1)
OUTPUT = Path(__file__).parent.parent / "data" / "ingest" / "currencies.json"


def table() -> dict[str, dict[str, object]]:
    """Code -> {"decimals", "marks": decimal marks of the countries that use it, "signs": in any language, "en": sign}."""
    marks: dict[str, set[str]] = defaultdict(set)
    for territory in get_global("territory_currencies"):
        for code in get_territory_currencies(territory, SINCE, datetime.date.today()):
            marks[code] |= _marks(territory)
    signs: dict[str, set[str]] = defaultdict(set)
    for name in localedata.locale_identifiers():
        for code, sign in Locale.parse(name).currency_symbols.items():
            signs[code].add(sign)
    english = Locale("en").currency_symbols
    return {
        code: {
            "decimals": get_currency_precision(code),
            "marks": "".join(sorted(marks[code])),
            "signs": sorted(sign for sign in signs[code] if sign != code and sign.strip("\u200b")),
            "en": english[code] if english.get(code, code) != code else None,
        }
        for code in sorted(marks)
    }


def _marks(territory: str) -> set[str]:
    """The decimal marks of a country's official languages."""
    found = set()
    for language in get_official_languages(territory, de_facto=True):
        try:
            locale = Locale.parse(f"{language}_{territory}", sep="_")
        except (UnknownLocaleError, ValueError):
            continue
        found.add(locale.number_symbols.get("latn", {}).get("decimal", "."))
    return found & {".", ","}


if __name__ == "__main__":
    lines = ",\n".join(f"{json.dumps(code)}: {json.dumps(entry, ensure_ascii=False)}" for code, entry in table().items())
    OUTPUT.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
