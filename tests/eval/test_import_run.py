"""Predictions of other tools: prices, ids, columns and answers in the forms that other tools write them."""

# ruff: noqa: E501 (a row as another tool writes it is one line)

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.sample import __main__ as sample
from eval.runs.import_config import ImportConfig
from eval.runs.imported import import_run, parse_field
from eval.runs.row_ids import RowIds
from eval.runs.run import Run
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, ParsedField


@pytest.mark.parametrize(
    ("value", "currency", "parsed"),
    [
        (1290, "USD", 1290.0),
        ("1290.0", "USD", 1290.0),
        ("1,290.00", "USD", 1290.0),
        ("$1,290.00", "USD", 1290.0),
        ("1.290,00 €", "EUR", 1290.0),
        ("RM 59.90", "MYR", 59.9),
        ("€12", "USD", None),
        ("about 12", "USD", None),
    ],
)
def test_a_price_is_read_with_its_sign(value: object, currency: str, parsed: float | None) -> None:
    expected = ParsedField(parsed, "ok" if parsed is not None else "malformed")
    assert parse_field(Field("price", "number", currency), value) == expected


def test_ids_are_found_where_a_spreadsheet_made_numbers_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    ids = RowIds(["0000000", "0000012", "a-07"], "split 'test'")
    assert [ids.find(given, "p.csv line 2") for given in ("0000012", "12", "12.0", " a-07 ", "0")] == [
        *("0000012", "0000012", "0000012", "a-07", "0000000"),
    ]
    assert capsys.readouterr().err.count("'12' is read as '0000012'") == 1
    with pytest.raises(UserError, match=r"p\.csv line 2: '7' is no row of split 'test', whose ids are such as '0000000'"):
        ids.find("7", "p.csv line 2")


def test_an_id_that_two_rows_could_have_is_none() -> None:
    with pytest.raises(UserError, match="'7' is no row"):
        RowIds(["07", "007"], "split 'test'").find("7", "line 2")
    with pytest.raises(UserError, match="x' is no row"):  # each zero as the first one of a number: an hour
        RowIds(["07"], "split 'test'").find("0" * 1_000_000 + "x", "line 2")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "catalogue"
    sample.main(["--output", str(folder), "--products", "24", "--seed", "3", "--validation", "2", "--test", "12"])
    return folder


def imported(catalogue: Path, path: Path, **settings: Any) -> Run:
    return import_run(ImportConfig(input=path, data=catalogue, output=path.with_name("run"), **settings))


def all_right(run: Run) -> bool:
    return all(field.value == row.true[name] for _, row in run.stream() for name, field in row.predicted.items())


ANSWERS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "fenced": lambda text, row: f"```text\n{text}\n```",
    "a json object": lambda text, row: json.dumps(row),
    "a fenced json object": lambda text, row: f"```json\n{json.dumps(row, indent=1)}\n```",
}


@pytest.mark.parametrize("form", ANSWERS)
def test_answers_as_chat_models_write_them_are_read(form: str, catalogue: Path, tmp_path: Path) -> None:
    opened = Catalogue(catalogue)
    names = [field.name for field in opened.task.fields]
    lines = [
        {"custom_id": row["id"], "response": {"choices": [{"message": {"content": ANSWERS[form](opened.task.answer(row), {n: row[n] for n in names})}}]}}
        for row in opened.split("test")
    ]  # fmt: skip
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = imported(catalogue, tmp_path / "p.jsonl", id="custom_id", text="response.choices.0.message.content")
    assert all_right(run) and sum(1 for _ in run.stream()) == 12


def table(catalogue: Path, path: Path, names: Callable[[str], str]) -> Path:
    opened = Catalogue(catalogue)
    fields = [field.name for field in opened.task.fields]
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(
            [["ID", *map(names, fields)], *([row["id"], *(row[n] for n in fields)] for row in opened.split("test"))]
        )
    return path


def test_columns_are_found_in_any_case_and_others_are_proposed(catalogue: Path, tmp_path: Path) -> None:
    assert all_right(imported(catalogue, table(catalogue, tmp_path / "p.csv", lambda name: name.upper().replace("_", " "))))
    with pytest.raises(UserError, match=r"has no column 'title'; .*\(--fields title=pred_title\?\)"):
        imported(catalogue, table(catalogue, tmp_path / "again" / "p.csv", lambda name: f"pred_{name}"))


def test_answers_that_the_template_does_not_fit_are_said(
    catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"id": row["id"], "answer": "a nice thing"} for row in Catalogue(catalogue).split("test")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    imported(catalogue, tmp_path / "p.jsonl", text="answer")
    said = capsys.readouterr().err
    assert (
        "could not be read: title in 12 and category3_code in 12 and full_price in 12 of 12 rows" in said
        and "the template is" in said
    )
