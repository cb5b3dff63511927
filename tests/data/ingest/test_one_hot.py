"""A class written as one column for each, with a 1 in one of them, is read where each row has exactly one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.ingest.ingest_config import IngestConfig
from data.ingest.one_hot import one_hot_columns
from data.ingest.pipeline import ingest
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.tables import write_cells as write


def take(source: Path, **settings: Any) -> list[dict[str, Any]]:
    for k in range(4):
        (source.parent / f"p{k}.jpg").write_bytes(photo_bytes(k))
    output = source.with_name("out")
    ingest(IngestConfig(str(source), output, processes=1, validation=0.0, **settings))
    return sorted(Catalogue(output).split("train")[:], key=lambda row: str(row["id"]))


@pytest.mark.parametrize(("one", "zero"), [(" 1", " 0"), ("True", "False"), ("1.0", "0.0"), ("Yes", "no")])
def test_classes_in_columns_of_their_own_are_the_category(
    one: str, zero: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"p0.jpg|{one}|{zero}|{zero}", f"p1.jpg|{zero}|{zero}|{one}", f"p2.jpg|{zero}|{one}|{zero}"]
    rows = take(write(tmp_path / "_classes.csv", "filename|class_bag|class_boot|class_hat", *lines))
    assert [row["category"] for row in rows] == ["bag", "hat", "boot"]
    assert "category is the one of class_bag, class_boot, class_hat that has a 1" in capsys.readouterr().err


def test_beside_other_fields_they_are_named_with_the_yaml_that_learns_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.csv", "title|image|bag|hat", "Tote|p0.jpg|1|0", "Cap|p1.jpg|0|1", "Both|p2.jpg|1|0")
    assert "category" not in take(path)[0]
    assert "YAML with category: {one_hot: true, columns: [bag, hat]} learns it" in capsys.readouterr().err
    fields = {"title": "title", "category": {"one_hot": True, "columns": ["bag", "hat"], "kind": "category"}}
    (tmp_path / "m.yaml").write_text(f"fields: {fields}\n".replace("True", "true"))
    from data.ingest.__main__ import main

    assert main([str(path), "-o", str(tmp_path / "named"), "--config", str(tmp_path / "m.yaml"), "--processes", "1"]) == 0
    assert {row["title"]: row["category"] for row in Catalogue(tmp_path / "named").split("train")} == {
        "Tote": "bag", "Cap": "hat", "Both": "bag"
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [{"stock": 1, "sale": 1}, {"stock": 1, "sale": 0}],  # flags that are independent of each other
        [{"stock": 1, "sale": 0}, {"stock": 1, "sale": 0}],  # one class alone says nothing
        [{"stock": 1, "sale": 0}, {"stock": 0, "sale": 0}],
        [{"stock": 1, "sale": 0.5}, {"stock": 0, "sale": 1}],
        [],
    ],
)
def test_flags_are_no_classes(rows: list[dict[str, Any]]) -> None:
    assert one_hot_columns(["stock", "sale"], rows) == []


def test_one_column_or_a_number_cannot_be_one_hot(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image|bag|hat", "p0.jpg|1|0")
    for spec in ({"column": "bag", "one_hot": True}, {"columns": ["bag", "hat"], "one_hot": True, "kind": "number"}):
        with pytest.raises(UserError, match="has one_hot, so it is a category or text of several columns"):
            take(path, fields={"kind": spec})
