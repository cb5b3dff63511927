"""What words about a tax say: whether it is in a price. Of the name of a column and of the text behind a price."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from mlx_phi3v.text import in_form

_TAXES = frozenset(
    {"mwst", "mehrwertsteuer", "ust", "umsatzsteuer", "vat", "gst", "tax", "taxes", "taxe", "tva", "iva", "btw", "moms",
     "mva", "alv", "dph", "kdv", "pdv", "áfa", "afa", "ндс", "пдв", "φπα"}
)  # fmt: skip
# These say it without naming a tax.
_ALONE_WITH = frozenset({"ttc", "brutto", "gross", "税込", "税込み", "含税"})
_ALONE_WITHOUT = frozenset({"ht", "netto", "net", "税抜", "税抜き", "税別", "不含税", "未税"})
# Before or behind the tax: inkl. MwSt., IVA inclusa.
_WITH = _ALONE_WITH | {
    *("inkl", "incl", "inc", "including", "inclusive", "included", "incluido", "incluida", "incluído", "inclus", "incluse"),
    *("incluso", "inclusa", "inclusi", "compris", "comprise", "with", "mit", "con", "avec", "dahil"),
}
_WITHOUT = _ALONE_WITHOUT | {
    *("excl", "exkl", "ekskl", "eks", "exc", "ex", "excluding", "exclusive", "excluded", "excluido", "excluida", "excluído"),
    *("esclusa", "escluso", "hors", "sin", "sans", "senza", "ohne", "bez", "без", "zzgl", "plus", "hariç"),
}
_WORDS = _TAXES | _WITH | _WITHOUT
_SHORT_WITH = frozenset({"s", "z", "с"})  # with, before a tax alone: s DPH, z VAT, с НДС
_NOT = frozenset({"non", "no", "not", "nicht", "ikke", "inte", "niet"})
_AROUND = frozenset({"of", "all", "der", "die", "gesetzl", "gesetzlicher", "the", "de", "la", "les", "toutes"})
_KNOWN = _WORDS | _SHORT_WITH | _NOT | _AROUND | {"+"}
_LONGEST = 200  # characters of a price with its notes
_TOKEN = re.compile(r"\d{1,2}(?:[.,]\d)?\s?%|\+|[^\W\d_]+", re.UNICODE)
_GAPS = re.compile(r"[\s.,;:/()\[\]*]*")
# What is to be paid on top for the way, as German shops must write beside a price.
_SHIPPING = re.compile(
    r"[,;/(\s]*(?:zzgl|plus|excl|exkl|ex|\+)\.? ?"
    r"(?:versand(?:kosten)?|versandk|porto|shipping|delivery|livraison|verzendkosten)(?: costs?)?\.?\)?\*?\Z",
    re.IGNORECASE,
)
_FOOTNOTE = re.compile(r"(?<=[\w€$£¥.)-])\s?[*†‡]{1,3}\Z")


def is_tax_word(word: str) -> bool:
    """Whether a word of a column's name is about a tax."""
    return _plain(word) in _WORDS


def includes_tax(words: Iterable[str]) -> bool | None:
    """Whether words about a price say that tax is in it; None where they do not say.

    >>> includes_tax(["Prix", "TTC"]), includes_tax(["IVA", "non", "inclusa"]), includes_tax(["Price"]), includes_tax(["VAT"])
    (True, False, None, None)
    """
    found = [_plain(word) for word in words]
    if not _WITHOUT.isdisjoint(found) or "+" in found:
        return False
    with_tax = not _WITH.isdisjoint(found) or any(a in _SHORT_WITH and b in _TAXES for a, b in itertools.pairwise(found))
    return _NOT.isdisjoint(found) if with_tax else None


def without_notes(text: str) -> tuple[str, bool | None]:
    """A price's text without what stands behind it about tax, shipping and footnotes, and whether tax is in it.

    >>> without_notes("19,99 € inkl. 19 % MwSt., zzgl. Versand"), without_notes("12.50 € + VAT"), without_notes("12,50 €*")
    (('19,99 €', True), ('12.50 €', False), ('12,50 €', None))
    >>> without_notes("12.50 incl. case"), without_notes("5 VAT")
    (('12.50 incl. case', None), ('5 VAT', None))
    """
    if len(text) > _LONGEST:
        return text, None
    text = _FOOTNOTE.sub("", _SHIPPING.sub("", text))
    tokens = [(match.start(), match[0]) for match in _TOKEN.finditer(text)]
    start = next((k for k in range(len(tokens)) if _is_note([word for _, word in tokens[k:]])), None)
    if start is None:
        return text, None
    place = tokens[start][0]
    before = text[:place].rstrip(" ,;/([")
    # Nothing but signs between the words: "12.50 € excl. VAT / 15 €" is two prices.
    rest = _TOKEN.sub("", text[place:])
    if not any(c.isdigit() for c in before) or _GAPS.fullmatch(rest) is None:
        return text, None
    return _FOOTNOTE.sub("", before), includes_tax(word for _, word in tokens[start:])


def _is_note(words: list[str]) -> bool:
    """Whether all of these words are about a tax and say whether it is included."""
    plain = [_plain(word) for word in words]
    if plain[0] in _AROUND or plain[0].endswith("%"):
        return False
    if not all(word in _KNOWN or word.endswith("%") for word in plain) or includes_tax(words) is None:
        return False
    return not _TAXES.isdisjoint(plain) or (len(plain) == 1 and plain[0] in _ALONE_WITH | _ALONE_WITHOUT)


def _plain(word: str) -> str:
    return in_form("NFKC", word).casefold()
