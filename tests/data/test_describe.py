"""What is in a catalogue: figures that are right, a page that needs nothing else, text that cannot act."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from data.describe.__main__ import main
from data.describe.describe import describe
from data.describe.figures import histogram
from data.describe.photo_faults import FAULTS, SIDE, photo_faults
from data.writer import CatalogueWriter
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import VisionArgs
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, Task
from tests.helpers.misbehaving_server import photo_bytes

TASK = Task(
    (Field("title", "text"), Field("category", "category"), Field("price", "number", "EUR")),
    template="Product: {title}, Category: {category}, Price: {price}",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with CatalogueWriter(tmp_path / "shop", TASK, name="shop", source={}, settings={}) as writer:
        for k in range(20):
            shared = k if k not in (1, 19) else 100  # rows 1 and 19 have one picture, on both sides of the split
            image = writer.add_image(photo_bytes(shared, (60, 40) if k % 2 else (40, 90)), ".jpg")
            title = "<script>alert(1)</script>" if k == 3 else f"Scarf {k}"
            writer.add(
                "train" if k < 15 else "validation",
                {
                    "id": f"{k:02d}",
                    "images": [image],
                    "title": title,
                    "category": "ab"[k % 2],
                    "price": None if k == 5 else k + 1.0,
                },
            )
    return tmp_path / "shop"


def test_names_are_shown_as_text_whatever_they_hold(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((folder / "catalogue.json").read_text())
    for name in ("[x]", "shop[new]", "[bold]x[\\bold]", "a\u202eb", "[link=file:etc]x"):
        (folder / "catalogue.json").write_text(json.dumps(info | {"name": name, "counts": {"rejected": {"[red]\x1b[2J": 1}}}))
        assert main([str(folder), "--page", str(tmp_path / "page.html")]) == 0
        shown = capsys.readouterr().out
        assert name.replace("\u202e", "\\u202e") in shown and "[red]\\x1b[2J 1" in shown
        assert "\x1b" not in shown and "\u202e" not in shown
    wrong: tuple[object, ...] = ("[/x]", "../x", "a\x1bb", 5)
    for bad in wrong:
        (folder / "catalogue.json").write_text(json.dumps(info | {"name": bad}))
        with pytest.raises(UserError, match=r"catalogue\.json has the name .*; a name is one that a folder may have"):
            main([str(folder), "--page", str(tmp_path / "page.html")])


def test_a_catalogue_without_a_photo_that_opens_is_refused_and_one_bad_photo_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = sorted((folder / "images").rglob("*.jpg"))
    photos[0].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert main([str(folder), "--page", str(tmp_path / "page.html")]) == 0
    assert "cannot be opened" in capsys.readouterr().out
    for photo in photos:
        photo.write_bytes(b"no photo")
    with pytest.raises(UserError, match="no photo looked at"):
        main([str(folder), "--page", str(tmp_path / "other.html")])
    assert not (tmp_path / "other.html").exists()


def test_the_figures_are_those_of_the_rows(folder: Path) -> None:
    found = describe(Catalogue(folder), num_crops=(1, 4))
    assert found.rows == {"train": 15, "validation": 5}
    title, category, price = found.fields
    assert category.categories == {"a": {"train": 8, "validation": 2}, "b": {"train": 7, "validation": 3}}
    assert price.missing == {"train": 1}
    assert price.quantiles["smallest"] == 1 and price.quantiles["largest"] == 20
    assert sum(item.count for item in price.histogram) == 19
    assert title.lengths["largest"] == len("<script>alert(1)</script>")
    assert found.duplicates == {
        "pictures used again": 1,
        "pictures in several splits": 1,
        "answers that come again": 0,
        "pictures with different answers": 1,
        "rows of such pictures": 2,
    }
    assert found.sampled == 20 and found.sides["smallest"] == 40


def test_image_tokens_follow_the_published_formula(folder: Path) -> None:
    one, four = describe(Catalogue(folder), num_crops=(1, 4)).tokens
    assert one.median == one.largest == (1 * 1 + 1) * 144 + 1 + (1 + 1) * 12
    # 60x40 at 4 crops: scale 2, so 2 by 2. 40x90: scale 2 along its length and one crop wide, 2 by 1. Ten rows of each.
    wide, tall = (2 * 2 + 1) * 144 + 1 + (2 + 1) * 12, (2 * 1 + 1) * 144 + 1 + (2 + 1) * 12
    assert four.largest == wide and four.median == (wide + tall) // 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tokenizer of single characters and the model's special tokens, and a configuration."""
    vocabulary = {character: number for number, character in enumerate(map(chr, [10, *range(32, 127)]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.add_special_tokens(["<|user|>", "<|end|>", "<|assistant|>"])
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


def test_the_preview_marks_the_answer_and_nothing_else(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = lambda _: SimpleNamespace(vision=VisionArgs(), num_crops=4)  # noqa: E731
    monkeypatch.setattr("data.describe.sampled_rows.load_model_config", read)
    catalogue = Catalogue(folder)
    found = describe(catalogue, model=model, max_length=200, previews=20)
    rows = {row["id"]: row for name in ("train", "validation") for row in catalogue.split(name)}
    assert len(found.previews) == 20
    for preview in found.previews:
        trained = "".join(piece.text for piece in preview.pieces if piece.trained)
        assert trained == TASK.answer(rows[preview.row.split()[1]]) + "<|end|>"
        assert "[photo 1: " in "".join(piece.text for piece in preview.pieces if not piece.trained)
    assert all(figures.over == 20 for figures in found.tokens)  # a picture alone is longer than 200


def test_the_page_needs_nothing_else_and_runs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--pictures", "20", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    page = Path(lines[-1]["page"])
    assert page == folder.resolve().with_name("shop.html") and lines[-1]["rows"] == {"train": 15, "validation": 5}
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text) and "@import" not in text and "url(" not in text
    flagged = sum(fault["rows"] for fault in lines[-1]["faults"])
    assert text.count("<figure>") == 20 + flagged
    assert "default-src 'none'" in text


def test_the_terminal_names_splits_and_leaks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--page", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr().out
    assert "pictures in several splits: 1" in shown and "give --model for the text" in shown.replace("\n", " ").replace(
        "  ", " "
    )


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no catalogue"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="--num-crops"):
        main([str(folder), "--num-crops", "0"])


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.booleans())
def test_a_histogram_counts_every_value_once(values: list[float], logarithmic: bool) -> None:
    bins = histogram(values, logarithmic=logarithmic)
    assert sum(item.count for item in bins) == len(values)
    assert bins[0].low == min(values) and bins[-1].high == max(values)


def _picture(kind: str) -> Image.Image:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (120, 120, 3), dtype=np.uint8))
    good = Image.fromarray(np.kron(rng.integers(0, 256, (12, 12, 3)), np.ones((10, 10, 1))).astype(np.uint8))
    white = Image.new("RGB", (400, 400), (250, 250, 250))
    if kind == "tiny content":
        white.paste(good.resize((40, 40)), (180, 180))
    return {
        "good": good,
        "dark": good.point(lambda level: level // 5),
        "washed out": noise.point(lambda level: 246 + level // 32),
        "blurred": noise.resize((6, 6), Image.Resampling.NEAREST).resize((640, 640), Image.Resampling.BICUBIC),
        "low information": Image.new("RGB", (120, 120), (120, 40, 200)),
        "odd shape": good.resize((400, 100)),
        "tiny content": white,
    }[kind]


@pytest.mark.parametrize("kind", ["good", *FAULTS])
def test_a_photo_that_teaches_little_is_flagged(kind: str) -> None:
    image = _picture(kind)
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    found = photo_faults(small, image.size)
    assert kind in found if kind != "good" else found == ()


def test_flagged_photos_are_counted_and_none_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with CatalogueWriter(tmp_path / "shop", TASK, name="shop", source={}, settings={}) as writer:
        for k, kind in enumerate(["good", "dark", "tiny content"]):
            _picture(kind).save(tmp_path / "p.png")
            image = writer.add_image((tmp_path / "p.png").read_bytes(), ".png")
            writer.add("train", {"id": str(k), "images": [image], "title": kind, "category": "a", "price": 1.0})
    found = {fault.name: (fault.rows, fault.first) for fault in describe(Catalogue(tmp_path / "shop")).faults}
    assert found["dark"] == (1, ("train 1",)) and found["tiny content"] == (1, ("train 2",))
    assert main([str(tmp_path / "shop")]) == 0
    shown = capsys.readouterr().out
    assert "of 3 sampled rows; none is left out for it" in shown and "train 3" in shown


def test_rows_that_are_too_long_are_counted_over_all_rows(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = Catalogue(folder)
    whole = describe(catalogue, model=checkpoint, num_crops=(1,), sample=2)
    assert whole.long_rows is None
    limit = whole.tokens[0].largest
    long = describe(catalogue, model=checkpoint, num_crops=(1,), sample=2, max_length=limit - 1).long_rows
    assert long is not None and sum(long.over.values()) >= 1 and long.longest >= limit
    assert main([str(folder), "--model", str(checkpoint), "--sample", "2", "--max-length", str(limit - 1)]) == 0
    assert "--skip-long leaves them out" in " ".join(capsys.readouterr().out.split())
