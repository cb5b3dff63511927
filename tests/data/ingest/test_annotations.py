"""Label Studio's and COCO's files become rows with the values that were annotated."""

# ruff: noqa: E501 (a row of a table is one line)

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest.annotations import annotated
from data.ingest.dry_run import dry_run
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from data.ingest.row import RowError
from data.ingest.sources import open_source
from data.ingest.tables import Reading, open_table
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes


def rows_of(path: Path) -> list[Any]:
    return [row.values for row in open_source(str(path)).rows()]


def result(name: str, **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": next(iter(value)), "value": value}


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-p.jpg"} | data, "annotations": list(annotations)}


TASKS: list[tuple[dict[str, Any], Any]] = [
    (task({"id": 5, "result": [result("kind", choices=["Shirt"]), result("name", text=["Blue shirt"])]}, sku="K"),
     {"kind": "Shirt", "name": "Blue shirt", "sku": "K"}),
    (task({"id": 4, "was_cancelled": True, "result": [result("kind", choices=["No"])]},
          {"id": 5, "result": [result("kind", choices=["A", "B"])]}), {"kind": ["A", "B"]}),
    (task({"id": 4, "result": [result("kind", choices=["First"])]},
          {"id": 5, "ground_truth": True, "result": [result("kind", choices=["True"])]}), {"kind": "True"}),
    (task({"id": 5, "result": [result("path", taxonomy=[["Clothing", "Shirts"]]), result("stars", rating=4),
                               result("price", number=12.5)]}), {"path": "Clothing > Shirts", "stars": 4, "price": 12.5}),
    (task({"id": 5, "result": [result("box", rectanglelabels=["Bag"], x=1, y=1), result("box", rectanglelabels=["Bag"], x=5)]}),
     {"box": "Bag"}),
]  # fmt: skip


@pytest.mark.parametrize(("item", "expected"), TASKS)
def test_a_task_has_its_data_and_the_values_of_its_controls(item: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([item]))
    (row,) = rows_of(tmp_path / "t.json")
    assert {name: row[name] for name in expected} == expected and row["annotation_id"] == 5


def test_a_task_without_an_annotation_is_rejected_and_a_file_of_such_is_one_sentence(tmp_path: Path) -> None:
    good = task({"id": 5, "result": [result("kind", choices=["Shirt"])]})
    (tmp_path / "t.json").write_text(json.dumps([task(), good]))
    assert [str(row) if isinstance(row, str) else row["kind"] for row in rows_of(tmp_path / "t.json")] == [
        "not_annotated",
        "Shirt",
    ]
    (tmp_path / "none.json").write_text(json.dumps([task(), task({"id": 5, "result": []})]))
    with pytest.raises(UserError, match="no task of the Label Studio export has an annotation"):
        open_source(str(tmp_path / "none.json"))


@pytest.mark.parametrize("form", ["min.json", "csv"])
def test_plain_forms_keep_what_was_chosen(form: str, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(photo_bytes(1))
    rows = [
        {"id": 1, "image": "/data/upload/1/0a1b2c3d-p.jpg", "kind": "Shirt", "Farbe: oben": "Blue", "annotator": 1, "annotation_id": 5},
        {"id": 2, "image": "p.jpg", "kind": {"choices": ["Shirt", "Work"]}, "Farbe: oben": "Red", "annotator": 1, "annotation_id": 6},
    ]  # fmt: skip
    path = tmp_path / f"t.{form}"
    if form == "csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows)
    else:
        path.write_text(json.dumps(rows))
    assert [row["kind"] for row in rows_of(path)] == ["Shirt", ["Shirt", "Work"]]
    info = ingest(IngestConfig(str(path), tmp_path / "out", processes=1))
    names = [(field["name"], field["kind"]) for field in info["task"]["fields"]]
    assert sorted(names) == [("Farbe_oben", "text"), ("kind", "category")]
    assert info["counts"]["kept"] == 2


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}],
    "categories": [{"id": 1, "name": "shirt"}, {"id": 2, "name": "cap"}],
}


def test_captions_are_rows_with_their_picture_and_category(tmp_path: Path) -> None:
    notes = [(7, "A shirt", 1), (8, "A cap", 2), (7, "A blue shirt", 1), (99, "Lost", 1)]
    annotations = [{"id": i, "image_id": k, "caption": text, "category_id": c} for i, (k, text, c) in enumerate(notes)]
    (tmp_path / "c.json").write_text(json.dumps(COCO | {"annotations": annotations}))
    assert rows_of(tmp_path / "c.json") == [
        {"file_name": "a.jpg", "image_id": "7", "caption": "A shirt", "category": "shirt"},
        {"file_name": "b.jpg", "image_id": "8", "caption": "A cap", "category": "cap"},
        {"file_name": "a.jpg", "image_id": "7", "caption": "A blue shirt", "category": "shirt"},
        "picture_unknown",
        "not_annotated",
    ]
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(photo_bytes(ord(name)))
    info = ingest(IngestConfig(str(tmp_path / "c.json"), tmp_path / "out", processes=1, validation=0.0))
    assert info["counts"]["kept"] == 3 and info["products"]["products"] == 2
    row = Catalogue(tmp_path / "out").split("train")[0]
    assert (row["title"], row["category"]) == ("A shirt", "shirt")


def test_boxes_are_one_row_for_each_picture(tmp_path: Path) -> None:
    boxes = [(7, 1), (7, 1), (8, 2), (7, 2)]
    annotations = [{"id": i, "image_id": k, "category_id": c, "bbox": [0, 0, 5, 5]} for i, (k, c) in enumerate(boxes)]
    (tmp_path / "c.json").write_text(json.dumps(COCO | {"annotations": annotations}))
    assert rows_of(tmp_path / "c.json") == [
        {"file_name": "a.jpg", "image_id": "7", "category": "shirt, cap"},
        {"file_name": "b.jpg", "image_id": "8", "category": "cap"},
        "not_annotated",
    ]


LATE = [task({"id": k, "result": [result("kind", choices=["Shirt"])]}, image="p.jpg", sku=f"K{k}") for k in range(1200)] + [
    task({"id": 1200, "result": [result("colour", choices=["Blue"])]}, image="p.jpg", sku="K1200")
]
CAPTIONS = [{"id": k, "image_id": 7, "caption": f"A shirt {k}", "category_id": 1} for k in range(3)]
FORMS: dict[str, tuple[Any, str]] = {
    "label studio": (LATE, "kind"),
    "label studio, JSON-MIN": ([{"id": 1, "image": "p.jpg", "kind": "Shirt", "annotation_id": 5, "sku": "K1"}], "kind"),
    "coco": (COCO | {"annotations": CAPTIONS}, "caption"),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_rows_count_dry_run_and_join_see_one_form(form: str, tmp_path: Path) -> None:
    content, name = FORMS[form]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    table = open_table(path)
    rows = [row for _, row in table.rows() if not isinstance(row, RowError)]
    assert set(table.columns) == {column for row in rows for column in row}
    assert table.count == len(content if isinstance(content, list) else CAPTIONS)
    assert (
        name in open_table(path, Reading(quick=True)).columns and open_source(str(path)).columns.keys() == table.columns.keys()
    )
    (tmp_path / "p.jpg").write_bytes(photo_bytes(1))
    (tmp_path / "a.jpg").write_bytes(photo_bytes(2))
    found = dry_run(IngestConfig(str(path), dry_run=2))
    assert not found.rejected and any(name in columns for columns in found.columns.values())
    key = "image_id" if form == "coco" else "sku"
    (tmp_path / "s.csv").write_text(f"{key},title,image\n{rows[0][key]},Work shirt,p.jpg\n")
    settings = IngestConfig(
        str(tmp_path / "s.csv"), field=("title=title", f"found={name}"), image=("image",), join=path, on=key
    )
    (joined,) = dry_run(dataclasses.replace(settings, dry_run=5)).rows
    assert joined.fields["found"] == ", ".join(row[name] for row in rows if row.get(key) == rows[0][key])


def test_any_other_table_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]))
    table = open_source(str(tmp_path / "r.json")).tables[0].table
    assert annotated(table) is table


@pytest.mark.parametrize(
    "result", [5, "text", {"a": 1}, [5], [{"value": 5}], [{"from_name": "c", "value": {"choices": [{"a": 1}]}}]]
)
def test_a_result_of_another_form_is_no_annotation(result: Any, tmp_path: Path) -> None:
    good = [{"from_name": "c", "value": {"choices": ["shirt"]}}]
    tasks = [{"data": {"image": f"{n}.jpg"}, "annotations": [{"result": said}]} for n, said in enumerate((good, result))]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    first, other = (row.values for row in open_source(str(tmp_path / "tasks.json")).rows())
    assert not isinstance(first, RowError) and first["c"] == "shirt"
    assert isinstance(other, RowError) or "c" not in other
