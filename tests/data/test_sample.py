"""The generated catalogue: the same seed gives the same bytes, and what it asks can be read off its pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.sample import textures
from data.sample.__main__ import main
from data.sample.brands import BRANDS, Brand, Item
from data.sample.draw_catalogue import SampleConfig, sample, split_of
from data.sample.products import choose_appearance, draw_product, make_row, permute
from data.sample.render import SHAPES, render
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError

SAMPLE = BRANDS["sample"]
every_brand = pytest.mark.parametrize("brand", BRANDS.values(), ids=BRANDS)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    one = sample(SampleConfig(tmp_path / "one", products=60, seed=3, processes=1, json=True))
    two = sample(SampleConfig(tmp_path / "two", products=60, seed=3, processes=2, json=True))
    assert one["fingerprint"] == two["fingerprint"]
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_another_seed_or_brand_gives_another_catalogue(tmp_path: Path) -> None:
    fingerprints = {
        sample(SampleConfig(tmp_path / f"{brand}{seed}", products=10, seed=seed, brand=brand, processes=1, json=True))[
            "fingerprint"
        ]
        for brand in BRANDS
        for seed in (1, 2)
    }
    assert len(fingerprints) == 2 * len(BRANDS)


def test_a_product_does_not_depend_on_what_was_drawn_before() -> None:
    forward = [draw_product(SAMPLE, 5, index) for index in range(6)]
    backward = [draw_product(SAMPLE, 5, index) for index in reversed(range(6))][::-1]
    assert forward == backward
    assert len({product.picture for product in forward}) == 6


def test_catalogue_holds_every_product_once_with_its_picture(tmp_path: Path) -> None:
    sample(SampleConfig(tmp_path / "c", products=50, seed=2, test=7, validation=5, json=True))
    catalogue = Catalogue(tmp_path / "c")
    assert {name: len(catalogue.split(name)) for name in ("train", "validation", "test")} == {
        "train": 38,
        "validation": 5,
        "test": 7,
    }
    rows = [row for name in ("train", "validation", "test") for row in catalogue.split(name)]
    assert len({row["id"] for row in rows}) == 50
    for row in rows:
        product = draw_product(SAMPLE, 2, int(row["id"].rsplit("-", 1)[1]))
        assert Path(row["images"][0]).read_bytes() == product.picture
        assert {name: "" if row[name] is None else row[name] for name in product.row} == product.row
        assert catalogue.task.answer(row).startswith(f"Product: {row['title']}, Category: {row['category3_code']}")


@given(count=st.integers(1, 600), seed=st.integers(0, 2**40))
def test_permute_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(permute(index, count, seed) for index in range(count)) == list(range(count))


@given(count=st.integers(10, 500), seed=st.integers(0, 99), data=st.data())
def test_split_sizes_are_exact(count: int, seed: int, data: st.DataObject) -> None:
    test = data.draw(st.integers(0, count - 1))
    validation = data.draw(st.integers(0, count - 1 - test))
    sizes = Counter(split_of(index, count, validation, test, seed) for index in range(count))
    assert (sizes["test"], sizes["validation"], sizes["train"]) == (test, validation, count - test - validation)


def test_splits_mix_categories_and_change_with_the_seed() -> None:
    count = 2000
    chosen = [{i for i in range(count) if split_of(i, count, 0, 400, seed) == "test"} for seed in (1, 2)]
    assert 40 < len(chosen[0] & chosen[1]) < 130  # two independent fifths share a twenty-fifth: 80 of 2000
    shares = Counter(choose_appearance(SAMPLE, 1, index).shape for index in chosen[0])
    assert set(shares) == set(SHAPES) and min(shares.values()) > 10


@every_brand
def test_ids_and_product_codes_are_unique(brand: Brand) -> None:
    rows = [make_row(brand, 4, index)[1] for index in range(3000)]
    assert len({row["id"] for row in rows}) == len({row["product_code"] for row in rows}) == 3000


def _best_constant(prices: list[float]) -> float:
    """The largest share of `prices` that one guess is within 10 % of (each price allows 0.9 to 1.1 of itself)."""
    events = sorted([(0.9 * price, 0) for price in prices] + [(1.1 * price, 1) for price in prices])
    best = inside = 0
    for _, closes in events:
        inside += -1 if closes else 1
        best = max(best, inside)
    return best / len(prices)


@every_brand
def test_price_follows_from_what_is_seen_and_not_from_the_category_alone(brand: Brand) -> None:
    looks, rows = zip(*(make_row(brand, 6, index) for index in range(4000)))
    hits = 0
    by_category: dict[str, list[float]] = defaultdict(list)
    for look, row in zip(looks, rows):
        expected = brand.expected_price(look.shape, look.material, look.size, look.logo)
        hits += abs(expected - row["full_price"]) <= 0.1 * row["full_price"]
        by_category[row["category3_code"]].append(row["full_price"])
        assert row["full_price"] % brand.round_to == 0
    constant = sum(_best_constant(prices) * len(prices) for prices in by_category.values()) / len(rows)
    print(f"{brand.name}: oracle {hits / len(rows):.3f}, best constant per category {constant:.3f}")
    assert hits / len(rows) > 0.95
    assert constant < 0.4


@every_brand
def test_title_says_what_is_seen_in_two_to_eight_words(brand: Brand) -> None:
    for index in range(500):
        look, row = make_row(brand, 8, index)
        words = row["title"].split()
        assert 2 <= len(words) <= 8
        for part in (
            brand.items[look.shape].nouns[look.size],
            brand.materials[look.material].word,
            brand.colours[look.colour],
            brand.patterns[look.pattern],
            brand.logo_word if look.logo else "",
        ):
            assert part in row["title"]
        assert (brand.logo_word in row["title"]) == look.logo


def test_the_two_brands_share_no_category_noun_or_price_scale() -> None:
    def words(brand: Brand) -> set[str]:
        return {item.category for item in brand.items.values()} | {n for item in brand.items.values() for n in item.nouns}

    atelier = BRANDS["atelier"]
    assert not words(SAMPLE) & words(atelier)
    for shape in SHAPES:
        assert SAMPLE.items[shape].base > 3 * atelier.items[shape].base


def test_pictures_vary_in_size_and_shape_within_bounds() -> None:
    sizes = [Image.open(io.BytesIO(draw_product(SAMPLE, 9, index).picture)).size for index in range(120)]
    assert all(180 <= side <= 640 for size in sizes for side in size)
    aspects = [width / height for width, height in sizes]
    assert 0.49 <= min(aspects) < 0.7 and 1.4 < max(aspects) <= 2.01
    assert len(set(sizes)) > 100


def _picture(**changes: Any) -> np.ndarray:
    look: dict[str, Any] = {
        "shape": "bag",
        "material": "cotton",
        "colour": "red",
        "pattern": "plain",
        "size": 1.0,
        "logo": False,
        "letter": "S",
    }
    return render(np.random.default_rng(11), **{**look, **changes}).astype(int)


def test_logo_covers_a_visible_part_of_the_product() -> None:
    changed = np.abs(_picture(logo=True) - _picture()).max(axis=2) > 60
    assert 0.01 < changed.mean() < 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_differ_in_proportion(shape: str) -> None:
    def aspect(size: float, seed: int) -> float:
        left, top, right, bottom = SHAPES[shape](np.random.default_rng(seed), size).bounds()
        return math.log((right - left) / (bottom - top))

    small, large = ([aspect(size, seed) for seed in range(40)] for size in (0.0, 1.0))
    assert abs(np.mean(small) - np.mean(large)) > 0.25


def test_materials_differ_in_texture() -> None:
    """Any two materials' tiles differ by several grey levels in the fine and coarse contrast they carry."""

    def contrast(name: str) -> tuple[float, float]:
        tile = textures.tile(name).astype(float)
        coarse = tile.reshape(32, 16, 32, 16).mean(axis=(1, 3))
        return float(np.std(tile - np.kron(coarse, np.ones((16, 16))))), float(np.std(coarse))

    found = {name: contrast(name) for name in SAMPLE.materials}
    names = sorted(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert math.dist(found[one], found[other]) > 5, (one, other, found)


def test_a_third_brand_with_three_sizes_is_a_few_lines() -> None:
    sizes = (("mini", 1.0), ("midi", 1.4), ("maxi", 2.0))
    items = {"dress": Item("GOWNS", ("Mini", "Midi", "Maxi"), 100), "skirt": Item("KILTS", ("Kiltie", "Kilt", "Longkilt"), 80)}
    brand = dataclasses.replace(SAMPLE, name="third", items=items, sizes=sizes)
    rows = [draw_product(brand, 1, index).row for index in range(30)]
    assert {row["category3_code"] for row in rows} == {"GOWNS", "KILTS"}
    assert {row["size"] for row in rows} == {"mini", "midi", "maxi"}
    with pytest.raises(ValueError, match="2 nouns for 3 sizes"):
        dataclasses.replace(SAMPLE, sizes=sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"products": 9}, "--products is 9"),
        ({"products": 20, "test": 15, "validation": 5}, "leave none of 20"),
        ({"test_share": 1.5}, "--test-share is 1.5"),
        ({"test": -1}, "--test is -1; it must be from 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"processes": -2}, "--processes is -2"),
        ({"brand": "nobody"}, "--brand nobody is unknown"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    settings = dataclasses.replace(SampleConfig(tmp_path / "out", products=50, json=True), **changes)
    with pytest.raises(UserError, match=message):
        sample(settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        sample(SampleConfig(tmp_path / "out", products=10, json=True))
    assert _files(tmp_path) == {"out/mine.txt": b"keep"}


def test_command_prints_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "c"), "--products", "12", "--seed", "4", "--test", "2", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["rows"] == {"train": 9, "validation": 1, "test": 2} and captured.err == ""
    assert summary["fingerprint"] == Catalogue(tmp_path / "c").fingerprint


def test_the_same_command_again_finds_its_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output", str(tmp_path / "c"), "--products", "12", "--json"]
    assert main(flags) == 0
    first, before = json.loads(capsys.readouterr().out), _files(tmp_path)
    assert main(flags) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: {tmp_path / 'c'} is there already, drawn with the same settings; nothing was done\n"
    assert json.loads(captured.out)["fingerprint"] == first["fingerprint"] and _files(tmp_path) == before
    with pytest.raises(UserError, match="c exists and is not empty"):
        main([*flags, "--seed", "2"])
    (tmp_path / "c" / "train-00000.arrow").unlink()
    with pytest.raises(UserError, match="c exists and is not empty"):
        main(flags)


def test_drawing_needs_no_model_library() -> None:
    code = "import sys, data.sample; print([m for m in ('torch', 'mlx', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
