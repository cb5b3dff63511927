"""Rows are found in JSON of any form, and what is nested in a row stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest.row import RowError
from data.ingest.tables import open_table
from mlx_phi3v.errors import UserError

ROWS = [{"title": "Pot", "price": {"amount": 5.5}}, {"title": "Pan", "images": [{"src": "a.jpg"}, {"src": "b.jpg"}]}]
MANY = [{"title": f"Pot {k}", "images": [{"src": "a"}, {"src": "b"}, {"src": "c"}]} for k in range(5)]
COCO = {
    "info": {"year": 2020},
    "images": [{"id": 1, "file_name": "a.jpg", "width": 9}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}],
    "annotations": [
        {"id": 7, "image_id": 2, "caption": "A red cap", "category_id": 1},
        {"id": 8, "image_id": 1, "caption": "A shirt", "category_id": 2, "area": 1.5},
        {"id": 9, "image_id": 99, "caption": "?"},
    ],
    "categories": [{"id": 1, "name": "cap"}, {"id": 2, "name": "shirt"}],
}


def lines(rows: list[Any], join: str = "\n") -> str:
    return join.join(map(json.dumps, rows))


FORMS = {
    "list": json.dumps(ROWS),
    "indented list": json.dumps(ROWS, indent=2),
    "lines": lines(ROWS),
    "lines with a blank one and a mark": "\ufeff" + lines(ROWS, "\r\n\r\n"),
    "lines with commas": "[\n" + lines(ROWS, ",\n") + "\n]",
    "objects one after another": json.dumps(ROWS[0], indent=1) + "\n" + json.dumps(ROWS[1], indent=1),
    "objects without a line's end": lines(ROWS, " "),
    "inside": json.dumps({"count": 2, "products": ROWS}),
    "inside, indented": json.dumps({"count": 2, "products": ROWS}, indent=2),
    "deep inside": json.dumps({"data": {"shop": {"name": "A"}, "list": {"products": ROWS, "tags": ["x"]}}}),
    "beside a shorter list": json.dumps({"shops": [{"name": "A"}], "products": ROWS}),
    "edges": json.dumps({"data": {"products": {"edges": [{"node": row} for row in ROWS]}}}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t.json", "t.dat"])
def test_the_rows_are_found(form: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[form], encoding="utf-8")
    table = open_table(tmp_path / name)
    assert [row for _, row in table.rows()] == ROWS
    assert table.count == 2 and list(table.columns) == ["images", "price", "title"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_any_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    rows = [{"title": "Grün 🧣"}, {"title": "漢"}]
    for text in (json.dumps(rows, ensure_ascii=False), "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)):
        (tmp_path / "t.json").write_bytes(text.encode(encoding))
        assert [row for _, row in open_table(tmp_path / "t.json").rows()] == rows


def test_the_lists_inside_rows_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"products": MANY, "total": 5}))
    table = open_table(tmp_path / "t.json")
    assert [row for _, row in table.rows()] == MANY
    assert "products" in table.notes[0]  # type: ignore[attr-defined]


def test_an_object_of_objects_gives_its_keys_as_a_column(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"A1": {"title": "Pot"}, "A2": {"title": "Pan"}}))
    assert [row for _, row in open_table(tmp_path / "t.json").rows()] == [
        {"key": "A1", "title": "Pot"}, {"key": "A2", "title": "Pan"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson"])
def test_one_conversation_is_a_row(name: str, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "images": ["a.png"]}
    (tmp_path / name).write_text(json.dumps(row))
    assert [found for _, found in open_table(tmp_path / name).rows()] == [row]


def test_the_one_line_of_a_file_of_lines_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(MANY[0]))
    assert [row for _, row in open_table(tmp_path / "t.jsonl").rows()] == MANY[:1]


def test_coco(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(COCO))
    rows = [row for _, row in open_table(tmp_path / "t.json").rows()]
    assert rows[:2] == [
        {"file_name": "b.jpg", "annotation_id": 7, "image_id": 2, "caption": "A red cap", "category_id": 1, "category": "cap"},
        {
            "file_name": "a.jpg", "width": 9, "annotation_id": 8, "image_id": 1, "caption": "A shirt", "category_id": 2,
            "category": "shirt", "area": 1.5,
        },
    ]  # fmt: skip
    assert rows[2:] == ["image_id_unknown", "no_annotation"]


def label(name: str, kind: str, **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": kind, "value": value}


def test_label_studio(tmp_path: Path) -> None:
    results = [
        label("kind", "choices", choices=["Shirt"]), label("name", "textarea", text=["Blue shirt"]),
        label("stars", "rating", rating=4), label("tree", "taxonomy", taxonomy=[["Clothes", "Tops"]]),
        label("box", "rectanglelabels", x=1, rectanglelabels=["logo"]),
        label("box", "rectanglelabels", rectanglelabels=["tag"]),
    ]  # fmt: skip
    cancelled = {"was_cancelled": True, "result": [label("kind", "choices", choices=["Wrong"])]}
    tasks = [
        {"id": 1, "data": {"image": "a.png"}, "annotations": [cancelled, {"result": results}]},
        {"id": 2, "data": {"image": "b.png"}, "annotations": [cancelled]},
        {"id": 3, "data": {"image": "c.png"}, "completions": [{"result": [label("kind", "choices", choices=["A", "B"])]}]},
    ]
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    assert [row for _, row in open_table(tmp_path / "t.json").rows()] == [
        {
            "task_id": 1, "image": "a.png", "kind": "Shirt", "name": "Blue shirt", "stars": 4, "tree": "Clothes / Tops",
            "box": ["logo", "tag"],
        },
        "no_annotation",
        {"task_id": 3, "image": "c.png", "kind": ["A", "B"]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"products": [{"a": 1}, {"a"', "not valid JSON"),
        ("[1, 2]", "holds no rows"),
        ("", "holds no rows"),
        ("{}", "holds no rows"),
        ('{"products": [{"a": "\udc80"}]}', "not valid JSON"),
    ],
)
def test_what_holds_no_rows_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=message) as error:
        list(open_table(tmp_path / "t.json").rows())
    assert "\n" not in str(error.value)


def test_a_broken_first_line_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"title": "a}\n{"title": "b"}\n{"title": "c"}\n')
    rows = [row for _, row in open_table(tmp_path / "t.jsonl").rows()]
    assert rows == ["malformed_row", {"title": "b"}, {"title": "c"}] and isinstance(rows[0], RowError)
