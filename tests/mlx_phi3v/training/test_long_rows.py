"""Rows longer than the limit are refused or left out before the first step, and a run is the same without them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.writer import CatalogueWriter
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Field, Task
from mlx_phi3v.training import long_rows
from mlx_phi3v.training.long_rows import at_most, short_rows
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.row_order import RowOrder
from mlx_phi3v.training.train_config import TrainConfig
from tests.helpers.catalogue import random_picture

TASK = Task((Field("title", "text"), Field("price", "number")), template="Title: {title}, Price: {price}")
LONG = {3: "much longer " * 30, 7: "longer " * 30}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("long")
    with CatalogueWriter(folder / "c", TASK, name="c", source={}, settings={}) as writer:
        random_picture(60, 40, 0).save(folder / "a.png")
        image = writer.add_image((folder / "a.png").read_bytes(), ".png")
        for split, count in (("train", 10), ("validation", 4)):
            for i in range(count):
                title = LONG.get(i, f"Hat {i}") if split == "train" or i == 3 else f"Hat {i}"
                writer.add(split, {"id": f"{split}-{i}", "images": [image], "title": title, "price": float(i)})
    return Catalogue(folder / "c")


@pytest.fixture(scope="module")
def maker(checkpoint: Path) -> ExampleMaker:
    return ExampleMaker(PromptProcessor(checkpoint), load_model_config(checkpoint), TASK, 1)


def a_row(title: str) -> dict[str, Any]:
    return {"id": "x", "images": [], "title": title, "price": 1.0}


def test_long_rows_are_counted_and_the_longest_is_named(catalogue: Catalogue, maker: ExampleMaker) -> None:
    with pytest.raises(UserError, match=r"2 of 10 rows of split 'train' .* row 'train-3', takes .*--skip-long"):
        short_rows(catalogue.split("train"), limited(maker), skip=False)
    with pytest.raises(UserError, match="1 of 4 rows of split 'validation'"):
        short_rows(catalogue.split("validation"), limited(maker), skip=False)
    assert short_rows(catalogue.split("validation"), limited(maker), skip=False, first=3).numbers is None


def limited(maker: ExampleMaker) -> ExampleMaker:
    """A maker whose limit lies between the usual rows and the long ones."""
    return ExampleMaker(maker.prompts, maker.config, TASK, 1, max_length=maker.length(a_row("Hat 12")) + 40)


def test_long_rows_are_left_out_with_a_note(
    catalogue: Catalogue, maker: ExampleMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    split = catalogue.split("train")
    short = short_rows(split, limited(maker), skip=True)
    assert short.numbers is not None and short.numbers.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    assert short.lengths is not None and len(short.lengths.tokens) == 8
    assert "left out: 2 of 10 rows" in capsys.readouterr().err
    order = RowOrder(8, 3, 2, 0, numbers=short.numbers)
    steps = order.steps()
    drawn = [row for _ in range(3) for batch in next(steps) for row in batch]
    assert set(drawn) == set(short.numbers.tolist())
    plain = RowOrder(8, 3, 2, 0).steps()
    assert drawn == [int(short.numbers[row]) for _ in range(3) for batch in next(plain) for row in batch]


def test_nothing_is_measured_where_no_row_can_be_too_long(
    catalogue: Catalogue, maker: ExampleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    split = catalogue.split("train")
    monkeypatch.setattr(long_rows, "measure_rows", fail)
    assert short_rows(split, maker, skip=False).numbers is None
    with pytest.raises(AssertionError, match="measured"):
        short_rows(split, limited(maker), skip=False)


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_the_bound_is_never_below_a_row(num_crops: int, small_catalogue: Path, checkpoint: Path) -> None:
    catalogue = Catalogue(small_catalogue)
    maker = ExampleMaker(PromptProcessor(checkpoint), load_model_config(checkpoint), catalogue.task, num_crops)
    split = catalogue.split("train")
    assert at_most(split, maker) >= max(maker.length(row) for row in split)


def config(catalogue: Catalogue, checkpoint: Path, output: Path, limit: int, **settings: Any) -> TrainConfig:
    return TrainConfig(
        catalogue.folder, output, model=str(checkpoint), backend="torch", max_steps=4, batch_size=2, warmup_steps=1,
        num_crops=1, vision="off", projector="off", save_every=2, val_rows=4, max_length=limit, json=True, **settings,
    )  # fmt: skip


def test_a_run_is_refused_before_it_writes_and_runs_without_the_long_rows(
    catalogue: Catalogue, maker: ExampleMaker, checkpoint: Path, tmp_path: Path
) -> None:
    limit = limited(maker).max_length
    with pytest.raises(UserError, match="--skip-long"):
        train(config(catalogue, checkpoint, tmp_path / "run", limit))
    assert not (tmp_path / "run" / "log.jsonl").exists()
    summary = train(config(catalogue, checkpoint, tmp_path / "run", limit, skip_long=True))
    assert summary["rows"] == 8 and summary["best_loss"] is not None
    resumed = config(catalogue, checkpoint, tmp_path / "run", limit + 50, skip_long=True, resume=True)
    with pytest.raises(UserError, match="with --skip-long it decides which rows are drawn"):
        train(dataclasses.replace(resumed, max_steps=6))
    again = config(catalogue, checkpoint, tmp_path / "run", limit, skip_long=True, resume=True)
    assert train(dataclasses.replace(again, max_steps=6))["steps"] == 6


def test_numbers_of_rows_are_those_of_the_split() -> None:
    order = RowOrder(3, 2, 1, 0, numbers=np.array([5, 7, 9]))
    assert sorted(row for batches in zip(range(2), order.steps()) for batch in batches[1] for row in batch) == [5, 7, 9]
