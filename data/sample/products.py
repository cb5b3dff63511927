"""One generated product: what it is (`choose_appearance`), its row and its picture (`draw_product`), by index."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import render
from .brands import Brand
from .settings import MAX_PRODUCTS

_FIRST_CODE = 80_000_000


@dataclass(frozen=True)
class Appearance:
    """What can be seen of a product, as the keys of `render` and `Brand`; `size` counts the brand's sizes from 0."""

    shape: str
    material: str
    colour: str
    pattern: str
    size: int
    logo: bool


@dataclass(frozen=True)
class Product:
    """A catalogue row without its "images", and the picture to store for it."""

    row: dict[str, Any]
    picture: bytes
    suffix: str = ".jpg"


def _stream(brand: Brand, seed: int, index: int, aspect: int) -> np.random.Generator:
    """The random stream of one aspect of one product (0 appearance, 1 row, 2 picture), independent of every other product."""
    return np.random.default_rng([seed, zlib.crc32(brand.name.encode()), index, aspect])


def _pick(rng: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[int(rng.integers(len(options)))]


def choose_appearance(brand: Brand, seed: int, index: int) -> Appearance:
    """What product `index` looks like."""
    rng = _stream(brand, seed, index, 0)
    material = _pick(rng, brand.materials)
    return Appearance(
        shape=_pick(rng, brand.items),
        material=material,
        colour=_pick(rng, brand.colours),
        pattern=_pick(rng, brand.materials[material].patterns),
        size=int(rng.integers(len(brand.sizes))),
        logo=bool(rng.random() < brand.logo_share),
    )


def permute(index: int, count: int, seed: int) -> int:
    """A seeded permutation of range(count): where `index` (below `count`) goes, in constant memory.

    A Feistel network over the next even power of two, walked until it lands inside (Black and Rogaway, 2002).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            digest = hashlib.blake2b(b"%d,%d,%d" % (seed, turn, right), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        index = left << half | right
        if index < count:
            return index


def make_row(brand: Brand, seed: int, index: int) -> tuple[Appearance, dict[str, Any]]:
    """What can be seen of product `index`, and its catalogue row, without drawing it."""
    look = choose_appearance(brand, seed, index)
    rng = _stream(brand, seed, index, 1)
    price = brand.expected_price(look.shape, look.material, look.size, look.logo) * np.exp(rng.normal(0, brand.price_sigma))
    code = str(_FIRST_CODE + permute(index, MAX_PRODUCTS, seed))
    return look, {
        "id": f"{brand.name}-{index:07d}",
        "title": brand.make_title(look.shape, look.material, look.colour, look.pattern, look.size, look.logo),
        "category3_code": brand.items[look.shape].category,
        "full_price": float(max(1, round(price / brand.round_to)) * brand.round_to),
        "product_code": code,
        "brand": brand.name,
        "currency": brand.currency,
        "material": brand.materials[look.material].word,
        "colour": brand.colours[look.colour],
        "pattern": brand.patterns[look.pattern],
        "size": brand.sizes[look.size][0],
        "logo": look.logo,
        "season": _pick(rng, brand.seasons),
    }


def picture_stream(brand: Brand, seed: int, index: int, look: Appearance) -> tuple[np.random.Generator, float]:
    """The random stream of product `index`'s picture, as `render` takes it, and the size from 0 to 1 to draw it in."""
    rng = _stream(brand, seed, index, 2)
    last = max(1, len(brand.sizes) - 1)
    return rng, float(np.clip(look.size / last + rng.uniform(-0.12, 0.12) / last, 0, 1))


def draw_product(brand: Brand, seed: int, index: int) -> Product:
    """Row and JPEG of product `index` of the catalogue `seed`: a pure function, under 10 ms a product."""
    look, row = make_row(brand, seed, index)
    rng, size = picture_stream(brand, seed, index, look)
    picture = render.render(
        rng,
        shape=look.shape,
        material=look.material,
        colour=look.colour,
        pattern=look.pattern,
        size=size,
        logo=look.logo,
        letter=brand.letter,
    )
    return Product(row, render.encode(picture))
