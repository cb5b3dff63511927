"""Every row of a catalogue is measured, exactly, and no picture is opened for it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.writer import CatalogueWriter
from mlx_phi3v import plan, progress
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Field, Task
from mlx_phi3v.training.row_lengths import measure_rows
from mlx_phi3v.training.step_shape import largest_batch
from tests.mlx_phi3v.test_catalogue import forbid, without_sizes

TASKS = {
    "the product task": Task(),
    "a prompt that merges with the answer": Task((Field("title", "text"),), prompt="<|image_1|> It is", template="{title}"),
    "a tag that appears twice": Task((Field("title", "text"),), prompt="<|image_1|>Again:<|image_1|>\n", template="{title}"),
    "two tags": Task((Field("title", "text"),), prompt="<|image_1|><|image_2|>Both\n", template="{title}"),
}


def write(folder: Path, task: Task, rows: int, pictures: int) -> Catalogue:
    """Rows whose pictures come in five sizes; the last row's is larger and its text longer than all others."""
    with CatalogueWriter(folder, task, name="c", source={}, settings={}, shard_rows=1000) as writer:
        images = []
        for i in range(6):
            buffer = io.BytesIO()
            Image.new("RGB", (60 + 90 * i, 300 if i < 5 else 600), (i, 0, 0)).save(buffer, "PNG")
            images.append(writer.add_image(buffer.getvalue(), ".png"))
        for i in range(rows):
            last = i == rows - 1
            row = {"id": f"r{i}", "images": [images[5 if last else (i + k) % 5] for k in range(pictures)]}
            plain = f"Wool {i}" + " and silk" * (40 if last else i % 5)
            row["title"] = plain if last or i % 3 == 0 else "Émaillé scarf 围巾 <|end|>"
            writer.add("train", row)
    return Catalogue(folder)


def maker_of(checkpoint: Path, task: Task, num_crops: int) -> ExampleMaker:
    return ExampleMaker(PromptProcessor(checkpoint), load_model_config(checkpoint), task, num_crops)


@pytest.mark.parametrize("name", TASKS)
def test_lengths_are_those_of_the_examples(name: str, checkpoint: Path, tmp_path: Path) -> None:
    task = TASKS[name]
    split = write(tmp_path / "c", task, rows=11, pictures=2 if name == "two tags" else 1).split("train")
    measured = measure_rows(split, maker_of(checkpoint, task, 4))
    for num_crops in (1, 4, 9):
        maker = maker_of(checkpoint, task, num_crops)
        examples = [maker(row, with_answer=True) for row in split]
        lengths = measured.lengths(num_crops, maker.config.vision)
        np.testing.assert_array_equal(lengths.tokens, [len(example.input_ids) for example in examples])
        np.testing.assert_array_equal(lengths.labels, [(example.labels >= 0).sum() for example in examples])
        np.testing.assert_array_equal(lengths.crops, [sum(i.crop_count for i in example.images) for example in examples])


def test_rows_without_and_with_several_photos_are_measured(checkpoint: Path, small_catalogue: Path) -> None:
    split, maker = Catalogue(small_catalogue).split("train"), maker_of(checkpoint, Task(), 4)
    lengths = measure_rows(split, maker).lengths(4, maker.config.vision)
    assert lengths.tokens.tolist() == [len(maker(row, with_answer=True).input_ids) for row in split]


def test_the_last_row_of_many_counts_and_no_photo_is_opened(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, maker = write(tmp_path / "c", Task(), rows=1203, pictures=1).split("train"), maker_of(checkpoint, Task(), 4)
    last = maker(split[-1], with_answer=True)
    forbid(monkeypatch)
    shutil.rmtree(tmp_path / "c" / "images")
    lengths = measure_rows(split, maker).lengths(4, maker.config.vision)
    shape = largest_batch(lengths, 2)
    assert shape.tokens == lengths.tokens[-1] == len(last.input_ids) > lengths.tokens[:-1].max()
    assert shape.labels == (last.labels >= 0).sum() and shape.crops == 2 * last.images[0].crop_count


def test_plan_counts_the_last_row_too(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = write(tmp_path / "c", Task(), rows=620, pictures=1).split("train")
    last = maker_of(checkpoint, Task(), 4)(split[-1], with_answer=True)
    flags = ["--model", str(checkpoint), "--data", str(tmp_path / "c"), "--num-crops", "4", "--gflops", "1", "--json"]
    assert plan.main(flags) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["tokens"] == len(last.input_ids) and figures["crops"] == 4 * last.images[0].crop_count


def test_a_catalogue_without_sizes_gives_the_same_lengths(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    maker, old = maker_of(checkpoint, Task(), 4), Catalogue(without_sizes(small_catalogue, tmp_path / "c"))
    ours, theirs = (
        measure_rows(catalogue.split("train"), maker).lengths(4, maker.config.vision)
        for catalogue in (Catalogue(small_catalogue), old)
    )
    for name in ("tokens", "labels", "crops"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_photo_that_cannot_be_read_is_named_where_it_matters(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    split, maker = Catalogue(without_sizes(small_catalogue, tmp_path / "c")).split("train"), maker_of(checkpoint, Task(), 4)
    whole = measure_rows(split, maker)
    whole.require_readable(split)
    Path(split[3]["images"][1]).unlink()
    measured = measure_rows(split, maker)
    assert measured.unreadable.tolist() == [3] and measured.lengths(4, maker.config.vision).tokens[3] == 0
    assert (np.delete(measured.lengths(4, maker.config.vision).tokens, 3) > 0).all()
    with pytest.raises(UserError, match=r"photo .*\.png cannot be read"):
        measured.require_readable(split)


def test_a_prompt_that_does_not_fit_the_photos_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    task = Task((Field("title", "text"),), prompt="No tag.\n", template="{title}")
    split = write(tmp_path / "c", task, rows=3, pictures=1).split("train")
    with pytest.raises(UserError, match=r"no <\|image_1\|> tag"):
        measure_rows(split, maker_of(checkpoint, task, 4))


def test_what_takes_long_shows_a_bar_and_what_is_short_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(seconds: float) -> list[dict[str, Any]]:
        clock = iter(range(1000))
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) * seconds)
        assert list(progress.watched(["ab", "c", "def"], "reading", 6, len, as_json=True)) == ["ab", "c", "def"]
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert run(0.1) == []
    assert [(event["label"], event["done"]) for event in run(3.0)][-1] == ("reading", 6)
