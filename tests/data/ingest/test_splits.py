"""No product is in two splits."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.ingest.__main__ import IngestConfig
from data.ingest.near_duplicates import Aligner, Fingerprints, fingerprint, near_pairs
from data.ingest.pipeline import ingest
from data.ingest.splits import SplitRow, Splitter
from mlx_phi3v.catalogue import Catalogue


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A photo-like picture: shapes of one seed over a smooth ground."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(60, 200, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for _ in range(6):
        w, h = rng.integers(15, 70, 2).tolist()
        x, y = int(rng.integers(0, size[0] - w)), int(rng.integers(0, size[1] - h))
        ground.paste(tuple(rng.integers(0, 256, 3).tolist()), (x, y, x + w, y + h))
    return ground


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def write(image: Image.Image, path: Path, quality: int | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": quality} if quality else {}
    image.save(path, **options)
    return path.name


COPIES: dict[str, Callable[[Image.Image], tuple[Image.Image, int | None]]] = {
    "same": lambda image: (image, None),
    "jpeg": lambda image: (image, 50),
    "small": lambda image: (image.resize((image.width * 3 // 4, image.height * 3 // 4)), 85),
    "crop": lambda image: (cropped(image, 0.03, 0.03, 0.03, 0.03), 80),
    "side": lambda image: (cropped(image, 0.05, 0, 0, 0), 90),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_crops_and_equal_codes_never_straddle_a_split(tmp_path: Path, seed: int) -> None:
    lines = []
    for product in range(30):
        original = photo(product)
        for name, copy in COPIES.items():
            image, quality = copy(original)
            suffix = ".png" if quality is None else ".jpg"
            file = write(image, tmp_path / "in" / f"{product}-{name}{suffix}", quality)
            lines.append({"title": f"p{product}", "category": "abc"[product % 3], "image": file, "sku": f"{product}-{name}"})
        other = write(photo(1000 + product), tmp_path / "in" / f"{product}-other.png")
        lines.append({"title": f"p{product}", "category": "abc"[product % 3], "image": other, "sku": f"{product}-same"})
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    info = ingest(
        IngestConfig(
            source=str(tmp_path / "in" / "rows.jsonl"),
            output=tmp_path / "out",
            code="sku",
            validation=0.2,
            test=0.2,
            seed=seed,
            processes=1,
        )
    )
    sides = defaultdict(set)
    catalogue = Catalogue(tmp_path / "out")
    for name in catalogue.info["splits"]:
        for row in catalogue.split(name):
            sides[row["title"]].add(name)
    assert len(sides) == 30 and all(len(names) == 1 for names in sides.values()), sides
    assert info["products"]["products"] == 30
    assert info["products"]["rows_held_together"] == 180
    assert info["products"]["joined_by"]["code"] == 30
    assert {name: entry["rows"] for name, entry in info["splits"].items()} == {"train": 108, "validation": 36, "test": 36}


def test_a_given_split_stays_and_its_leaks_are_reported(tmp_path: Path) -> None:
    rows = []
    for product in range(6):
        file = write(photo(product), tmp_path / f"{product}.png")
        rows.append({"title": f"p{product}", "image": file, "fold": "train" if product < 4 else "val"})
    crop = write(cropped(photo(1), 0.02, 0.02, 0.02, 0.02), tmp_path / "crop.jpg", 80)
    rows += [{"title": "crop of 1", "image": crop, "fold": "valid"}, {"title": "odd", "image": crop, "fold": "other"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    info = ingest(IngestConfig(source=str(tmp_path / "rows.json"), output=tmp_path / "out", split="fold", processes=1))
    assert {name: entry["rows"] for name, entry in info["splits"].items()} == {"train": 4, "validation": 3}
    assert info["counts"]["rejected"] == {"split_unknown": 1}
    assert info["products"]["leaking_products"] == 1
    assert list(info["products"]["leaks"]) == [{"rows": [{"row": 2, "split": "train"}, {"row": 7, "split": "validation"}]}]


def fingerprints_of(images: list[Image.Image]) -> Fingerprints:
    return Fingerprints(io.BytesIO(b"".join(map(fingerprint, images))))


def test_the_hash_is_that_of_imagehash() -> None:
    for seed in range(20):
        image = photo(seed, (90, 70))
        assert f"{int(fingerprints_of([image]).hashes(0, 1)[0, 0]):016x}" == str(imagehash.phash(image))


def test_the_lookup_finds_what_comparing_all_pairs_finds() -> None:
    images = [photo(seed) for seed in range(60)]
    images += [cropped(image, 0.02, 0.01, 0.03, 0) for image in images[:20]]
    fingerprints = fingerprints_of(images)
    found = {tuple(sorted(pair)) for pair in near_pairs(fingerprints, block=7)}
    assert {(k, 60 + k) for k in range(20)} <= found
    hashes = fingerprints.hashes(0, fingerprints.count)
    aligner = Aligner()
    expected = set()
    for one in range(fingerprints.count):
        for two in range(fingerprints.count):
            near = np.bitwise_count(hashes[one] ^ hashes[two, 0]).min() <= 7
            if one != two and near and aligner.correlation(fingerprints.thumb(one), fingerprints.thumb(two)) >= 0.965:
                expected.add((min(one, two), max(one, two)))
    assert found == expected


def test_blank_photos_are_not_joined() -> None:
    assert not list(near_pairs(fingerprints_of([Image.new("RGB", (50, 50), (250, 250, shade)) for shade in range(200, 210)])))


def test_alignment_is_the_correlation_of_the_best_crop() -> None:
    rng = np.random.default_rng(0)
    one, two = (np.asarray(photo(seed).resize((24, 24)), dtype=np.float32) for seed in (1, 2))
    plain = np.corrcoef(one.ravel(), two.ravel())[0, 1]
    assert Aligner().correlation(one, one) == pytest.approx(1, abs=1e-4)
    assert plain - 0.1 < Aligner().correlation(one, two) < 0.9
    assert Aligner().correlation(one, one + rng.normal(0, 1, one.shape).astype(np.float32)) > 0.99


def deal(folder: Path, rows: list[SplitRow], shares: dict[str, float], seed: int = 0) -> list[str]:
    splitter = Splitter(folder, seed)
    splitter.load(rows)
    splitter.join()
    splitter.assign(shares)
    result = list(splitter.splits())
    splitter.close()
    return result


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 4)), min_size=1, max_size=120),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
def test_shares_hold_and_products_stay_whole(
    tmp_path_factory: Any, products: list[tuple[int, int]], validation: float, test: float, seed: int
) -> None:
    rows = [SplitRow(k + 1, f"c{category}", f"code {code}", None, ()) for k, (code, category) in enumerate(products)]
    shares = {"validation": validation, "test": test}
    splits = deal(tmp_path_factory.mktemp("deal"), rows, shares, seed)
    assert splits == deal(tmp_path_factory.mktemp("deal"), rows, shares, seed)
    sides = defaultdict(set)
    for row, split in zip(rows, splits):
        sides[row.code].add(split)
    assert all(len(names) == 1 for names in sides.values())
    for name, share in shares.items():
        assert splits.count(name) <= share * len(rows) + 1e-6
    assert "train" in splits


def test_every_category_is_split_alike_and_small_ones_fill_the_share_together(tmp_path: Path) -> None:
    rows = [SplitRow(k + 1, f"c{k % 4}", None, None, ()) for k in range(400)]
    splits = deal(tmp_path / "even", rows, {"validation": 0.1})
    for category in range(4):
        assert splits[category::4].count("validation") == 10
    rare = [SplitRow(k + 1, f"c{k // 3}", None, None, ()) for k in range(300)]  # 100 categories of 3 rows
    assert deal(tmp_path / "rare", rare, {"validation": 0.1}).count("validation") == 30


def test_a_seed_changes_the_split_and_more_rows_hardly_do(tmp_path: Path) -> None:
    rows = [SplitRow(k + 1, "c", f"code {k}", None, ()) for k in range(500)]
    first = deal(tmp_path / "a", rows, {"validation": 0.2})
    assert first != deal(tmp_path / "b", rows, {"validation": 0.2}, seed=1)
    more = deal(
        tmp_path / "c", [*rows, *(SplitRow(k + 1, "c", f"code {k}", None, ()) for k in range(500, 510))], {"validation": 0.2}
    )
    assert sum(one != two for one, two in zip(first, more)) <= 10


def test_reencoding_changes_the_bytes_of_the_copies() -> None:
    """The leak test would mean nothing if its copies were the same file."""
    image = photo(3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    assert not np.array_equal(np.asarray(Image.open(buffer)), np.asarray(image))
