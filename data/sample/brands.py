"""Brands for the generated catalogue, as data: what a brand sells, its names for it and its prices.

Every brand has its own words for the same visual keys: shapes, materials, colours and patterns (see `render`).
A third brand is `dataclasses.replace(BRANDS["sample"], name=..., items=...)` or a new entry below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_phi3v.errors import UserError


@dataclass(frozen=True)
class Item:
    """One kind of product: its category code, a noun for each size of the brand, and its base price in USD."""

    category: str
    nouns: tuple[str, ...]
    base: float


@dataclass(frozen=True)
class Material:
    """A material's word, its price factor and the pattern keys it is made in."""

    word: str
    factor: float
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Brand:
    """A brand. Price = item base * material * size * logo factors * log-normal noise, then rounded to `round_to`.

    `items` is keyed by shape, `materials`, `colours` and `patterns` by visual key; `sizes` runs from small to large
    as (word, factor). `title` is a format over logo, pattern, material, noun and colour; empty words close up.
    """

    name: str
    items: Mapping[str, Item]
    materials: Mapping[str, Material]
    colours: Mapping[str, str]
    patterns: Mapping[str, str]
    sizes: tuple[tuple[str, float], ...]
    seasons: tuple[str, ...]
    title: str
    logo_word: str
    letter: str
    logo_share: float = 0.4
    logo_factor: float = 1.3
    price_sigma: float = 0.03
    round_to: int = 10
    currency: str = "USD"

    def __post_init__(self) -> None:
        for shape, item in self.items.items():
            if len(item.nouns) != len(self.sizes):
                raise ValueError(f"brand {self.name}: {shape} has {len(item.nouns)} nouns for {len(self.sizes)} sizes")

    def expected_price(self, shape: str, material: str, size: int, logo: bool) -> float:
        """The price in USD before noise and rounding: what a perfect reader of the picture would say."""
        price = self.items[shape].base * self.materials[material].factor * self.sizes[size][1]
        return price * (self.logo_factor if logo else 1.0)

    def make_title(self, shape: str, material: str, colour: str, pattern: str, size: int, logo: bool) -> str:
        """The title in the brand's words and order, e.g. "Check Cashmere Scarf in Camel"."""
        text = self.title.format(
            logo=self.logo_word if logo else "",
            pattern=self.patterns[pattern],
            material=self.materials[material].word,
            noun=self.items[shape].nouns[size],
            colour=self.colours[colour],
        )
        return " ".join(text.split())


_SAMPLE = Brand(
    name="sample",
    items={
        "tshirt": Item("T-SHIRTS", ("T-shirt", "Tunic"), 290),
        "shirt": Item("SHIRTS", ("Shirt", "Overshirt"), 420),
        "sweater": Item("SWEATERS", ("Sweater", "Longsweater"), 560),
        "coat": Item("TRENCH COATS", ("Jacket", "Trench"), 1190),
        "dress": Item("DRESSES", ("Minidress", "Gown"), 790),
        "skirt": Item("SKIRTS", ("Miniskirt", "Maxiskirt"), 480),
        "trousers": Item("TROUSERS", ("Trousers", "Palazzos"), 520),
        "shorts": Item("SHORTS", ("Shorts", "Bermudas"), 340),
        "sneakers": Item("SNEAKERS", ("Sneakers", "Platforms"), 460),
        "boots": Item("BOOTS", ("Booties", "Boots"), 890),
        "hat": Item("HATS", ("Cap", "Sunhat"), 260),
        "bag": Item("BAGS", ("Pouch", "Tote"), 980),
        "scarf": Item("SCARVES", ("Scarf", "Stole"), 310),
        "belt": Item("BELTS", ("Belt", "Waistbelt"), 240),
    },
    materials={
        "cotton": Material("Cotton", 1.0, ("plain", "check", "stripe", "dots")),
        "wool": Material("Cashmere", 1.3, ("plain", "check", "stripe", "herringbone")),
        "silk": Material("Silk", 1.7, ("plain", "stripe", "dots")),
        "leather": Material("Leather", 2.2, ("plain", "plain", "check")),
    },
    colours={
        "black": "Black",
        "white": "White",
        "grey": "Grey",
        "camel": "Camel",
        "brown": "Brown",
        "red": "Red",
        "pink": "Pink",
        "orange": "Orange",
        "yellow": "Yellow",
        "green": "Green",
        "blue": "Blue",
        "navy": "Navy",
        "purple": "Purple",
    },
    patterns={"plain": "", "check": "Check", "stripe": "Striped", "dots": "Dotted", "herringbone": "Herringbone"},
    sizes=(("small", 1.0), ("large", 1.5)),
    seasons=("SS24", "AW24", "SS25", "AW25"),
    title="{logo} {pattern} {material} {noun} in {colour}",
    logo_word="Logo",
    letter="S",
)

_ATELIER = Brand(
    name="atelier",
    items={
        "tshirt": Item("haut", ("Maillot", "Tunique"), 45),
        "shirt": Item("chemise", ("Chemise", "Surchemise"), 70),
        "sweater": Item("tricot", ("Pull", "Chandail"), 85),
        "coat": Item("manteau", ("Veste", "Manteau"), 160),
        "dress": Item("robe", ("Robette", "Robe"), 110),
        "skirt": Item("jupe", ("Jupette", "Jupe"), 65),
        "trousers": Item("pantalon", ("Pantalon", "Palazzo"), 90),
        "shorts": Item("culotte", ("Culotte", "Bermuda"), 50),
        "sneakers": Item("basket", ("Baskets", "Plateformes"), 95),
        "boots": Item("botte", ("Bottines", "Bottes"), 140),
        "hat": Item("coiffe", ("Casquette", "Chapeau"), 40),
        "bag": Item("sac", ("Pochette", "Cabas"), 130),
        "scarf": Item("foulard", ("Foulard", "Châle"), 55),
        "belt": Item("ceinture", ("Ceinture", "Ceinturon"), 35),
    },
    materials={
        "cotton": Material("coton", 1.0, ("plain", "check", "stripe", "dots")),
        "wool": Material("laine", 1.3, ("plain", "check", "stripe", "herringbone")),
        "silk": Material("soie", 1.7, ("plain", "stripe", "dots")),
        "leather": Material("cuir", 2.2, ("plain", "plain", "check")),
    },
    colours={
        "black": "noir",
        "white": "blanc",
        "grey": "gris",
        "camel": "beige",
        "brown": "marron",
        "red": "rouge",
        "pink": "rose",
        "orange": "abricot",
        "yellow": "jaune",
        "green": "vert",
        "blue": "bleu",
        "navy": "marine",
        "purple": "violet",
    },
    patterns={"plain": "", "check": "à carreaux", "stripe": "rayé", "dots": "à pois", "herringbone": "chevron"},
    sizes=(("court", 1.0), ("long", 1.5)),
    seasons=("E24", "H24", "E25", "H25"),
    title="{noun} {colour} {material} {pattern} {logo}",
    logo_word="griffé",
    letter="A",
    round_to=5,
)

_KONTOR = Brand(
    name="kontor",
    items={
        "tshirt": Item("LEIBCHEN", ("Leibchen", "Kittel"), 240),
        "shirt": Item("HEMDEN", ("Hemd", "Hemdjacke"), 390),
        "sweater": Item("PULLOVER", ("Pullover", "Langpullover"), 480),
        "coat": Item("JACKEN", ("Joppe", "Mantel"), 1290),
        "dress": Item("KLEIDER", ("Kurzkleid", "Abendkleid"), 870),
        "skirt": Item("ROECKE", ("Kurzrock", "Langrock"), 450),
        "trousers": Item("HOSEN", ("Hose", "Weithose"), 560),
        "shorts": Item("KURZHOSEN", ("Kurzhose", "Kniehose"), 310),
        "sneakers": Item("TURNSCHUHE", ("Turnschuhe", "Plateauschuhe"), 520),
        "boots": Item("STIEFEL", ("Halbstiefel", "Stiefel"), 980),
        "hat": Item("HUETE", ("Mütze", "Sonnenhut"), 220),
        "bag": Item("TASCHEN", ("Täschchen", "Tragetasche"), 1080),
        "scarf": Item("TUECHER", ("Schal", "Umhang"), 270),
        "belt": Item("GUERTEL", ("Gürtel", "Breitgürtel"), 190),
    },
    materials={
        "cotton": Material("Baumwolle", 1.0, ("plain", "check", "stripe", "dots")),
        "wool": Material("Wolle", 1.4, ("plain", "check", "stripe", "herringbone")),
        "silk": Material("Seide", 1.6, ("plain", "stripe", "dots")),
        "leather": Material("Leder", 2.0, ("plain", "plain", "check")),
    },
    colours={
        "black": "Schwarz",
        "white": "Weiß",
        "grey": "Grau",
        "camel": "Sand",
        "brown": "Braun",
        "red": "Rot",
        "pink": "Rosa",
        "orange": "Kupfer",
        "yellow": "Gelb",
        "green": "Grün",
        "blue": "Blau",
        "navy": "Nachtblau",
        "purple": "Lila",
    },
    patterns={"plain": "", "check": "kariert", "stripe": "gestreift", "dots": "gepunktet", "herringbone": "mit Fischgrat"},
    sizes=(("kurz", 1.0), ("lang", 1.4)),
    seasons=("FS24", "HW24", "FS25", "HW25"),
    title="{logo} {noun} aus {material} {pattern} in {colour}",
    logo_word="Signet",
    letter="X",
    logo_factor=1.25,
)

BRANDS: Mapping[str, Brand] = {brand.name: brand for brand in (_SAMPLE, _ATELIER, _KONTOR)}


def get_brand(name: str) -> Brand:
    """The brand called `name`. Raises UserError where there is none."""
    if name not in BRANDS:
        raise UserError(f"--brand {name} is unknown; choose one of {', '.join(BRANDS)}")
    return BRANDS[name]
