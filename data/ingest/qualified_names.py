"""Usual names of columns with a word beside: the tax of a price, the language of a text, the first level of a category."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mlx_phi3v.text import in_form

from .column_names import folded
from .currencies import find_sign
from .taxes import includes_tax, is_tax_word

_LONGEST = 200  # characters of a name that is looked at
_CUT = re.compile(r"[\s,;/()\[\]_.:-]+")
_IN_BRACKETS = re.compile(r"(?P<name>.*\w)\s*[\[(](?P<unit>[^\])]*)[\])]\s*")
_AT_THE_END = re.compile(
    r"(?P<name>.*?\w)(?:[\s_.-]+(?:(?:in|en|em)[\s_.-]+)?|(?=[€$£¥₹]))(?P<unit>[A-Za-z]{3}|[^\w\s.-]{1,2})\s*"
)
_LANGUAGE = re.compile(
    r"(?P<name>.*?\w)[\s_.:(\[-]+(?i:en|de|fr|it|es|pt|nl|pl|sv|da|nb|fi|cs|sk|hu|ro|tr|ru|uk|ja|zh|ko|ar|he|el|bg|hr|ca|vi|th)"
    r"(?:[_-][A-Z]{2})?(?:[-_.:][a-z]+)?[)\]]?"
)
_NUMBER = re.compile(r"\d+|[一二三四五]")
_LEVEL = re.compile(
    r"(?P<name>.*?\w)[\s_.(-]*(?:ebene|level|lvl|niveau|nivel|livello|stufe)?[\s_.-]*1\)?|(?:一级|第一)(?P<cjk>\w+)", re.I
)


def qualified_columns(names: Iterable[str], columns: Sequence[str], *, category: bool) -> list[str]:
    """The columns that are named as the first of `names` that fits, with a language or a category's first level behind.

    >>> qualified_columns(["title", "name"], ["sku", "name-en_US", "name-fr_FR", "name_id"], category=False)
    ['name-en_US', 'name-fr_FR']
    >>> qualified_columns(["kategorie", "类目"], ["Kategorie Ebene 1", "Kategorie Ebene 2", "一级类目"], category=True)
    ['Kategorie Ebene 1']
    """
    bare: dict[str, list[str]] = {}
    for column in columns:
        for pattern in (_LANGUAGE, _LEVEL) if category else (_LANGUAGE,):
            if len(column) <= _LONGEST and (match := pattern.fullmatch(column)):
                bare.setdefault(folded(match["name"] or match.groupdict().get("cjk") or ""), []).append(column)
    return next((found for name in names if (found := bare.get(folded(name)))), [])


def other_levels(column: str, columns: Sequence[str]) -> list[str]:
    """The columns whose names differ from this one in their number alone.

    >>> other_levels("Kategorie Ebene 1", ["Kategorie Ebene 1", "Kategorie Ebene 2", "Ebene 2"]), other_levels("a", ["a", "b"])
    (['Kategorie Ebene 2'], [])
    """
    without = _NUMBER.sub("#", column)
    return [name for name in columns if name != column and "#" in without and _NUMBER.sub("#", name) == without]


def priced_columns(names: Iterable[str], columns: Sequence[str]) -> list[tuple[str, str | None]]:
    """The columns that are named as the first of `names` that fits, with a currency or a tax beside it, and the code.

    Prices with tax come first, those without last.

    >>> priced_columns(["prix"], ["Prix HT", "Prix TTC (€)", "Prix note"])
    [('Prix TTC (€)', 'EUR'), ('Prix HT', None)]
    >>> priced_columns(["販売価格"], ["販売価格（税込）", "VAT"]), priced_columns(["price"], ["price_usd", "Price tax"])
    ([('販売価格（税込）', None)], [('price_usd', 'USD')])
    >>> priced_columns(["price"], ["Price in $", "Price note"]), priced_columns(["preis"], ["Preis (EUR, inkl. MwSt.)"])
    ([('Price in $', None)], [('Preis (EUR, inkl. MwSt.)', 'EUR')])
    """
    bare: dict[str, list[tuple[int, str, str | None]]] = {}
    for column in columns:
        if len(column) <= _LONGEST and (cut := _without_words(column)) is not None:
            name, rank, code = cut
            bare.setdefault(name, []).append((rank, column, code))
    found = next((listed for name in names if (listed := bare.get(folded(name)))), [])
    return [(column, code) for _, column, code in sorted(found, key=lambda item: item[0])]


def is_untaxed(column: str) -> bool:
    """Whether the name of a column of prices says that a tax comes on top.

    >>> is_untaxed("Price (tax excl.)"), is_untaxed("Prix TTC"), is_untaxed("price")
    (True, False, False)
    """
    return includes_tax(word for word in _CUT.split(in_form("NFKC", column[:_LONGEST])) if word) is False


def _without_words(column: str) -> tuple[str, int, str | None] | None:
    """(the name without words of tax and currency around it, its rank, the code); None where there are none around it."""
    plain = in_form("NFKC", column)
    name, code = _without_currency(plain) or (plain, None)
    words = [word for word in _CUT.split(name) if word]
    taxed = includes_tax(word for word in _CUT.split(plain) if word)
    while len(words) > 1 and (is_tax_word(words[-1]) or (code is None and find_sign(words[-1]) is not None)):
        sign = None if is_tax_word(words[-1]) else find_sign(words[-1])
        code = sign.usual if sign else code
        words.pop()
    while len(words) > 1 and is_tax_word(words[0]):
        words.pop(0)
    if name == plain and taxed is None and code is None:
        return None
    return folded(" ".join(words)), {True: 0, None: 1, False: 2}[taxed], code


def _without_currency(name: str) -> tuple[str, str | None] | None:
    """A name without the currency at its end, and its code; None where there is none."""
    match = _IN_BRACKETS.fullmatch(name) or _AT_THE_END.fullmatch(name)
    if match is None:
        return None
    signs = [sign for word in re.split(r"[\s,;/]+", match["unit"]) if (sign := find_sign(word)) is not None]
    return (match["name"], signs[0].usual) if signs else None
