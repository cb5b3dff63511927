"""A dry run shows what becomes of the first rows; it fetches and writes nothing, and its YAML says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.ingest import dry_run as module
from data.ingest.__main__ import main
from data.ingest.dry_run import dry_run
from data.ingest.ingest_config import IngestConfig
from data.ingest.plan import make_plan
from mlx_phi3v.cli import parse
from mlx_phi3v.errors import UserError
from tests.data.ingest.test_shaped_rows import write
from tests.helpers.misbehaving_server import photo_bytes, running_server
from tests.helpers.paths import ROOT

LINES = (
    "Handle|Title|Type|Variant Price|Image Src|Vendor",
    "mug|Blue mug|Mugs|14.50|p0.jpg|Acme",
    "mug|||18||",
    "tray|Oak tray|Trays|from 5|p1.jpg|Other",
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for k in range(3):
        (tmp_path / f"p{k}.jpg").write_bytes(photo_bytes(k))
    return write(tmp_path / "shop.csv", *LINES)


def test_the_first_rows_as_an_ingest_takes_them(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(shop.parent.iterdir())
    assert main([str(shop), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["export"] == "a Shopify export" and found["columns"]["price"] == ["Variant Price"]
    first = found["rows"][0]
    assert first["fields"] == {"title": "Blue mug", "category": "Mugs", "price": 14.5}
    assert first["answer"] == "Title: Blue mug, Category: Mugs, Price: 14.5" and first["photos"] == ["p0.jpg"]
    assert first["photo_tokens"] > 100 and first["text_tokens"] > 10
    assert found["rows"][1]["rejected"] == "picture_missing_in_row"
    assert found["left_over"] == {"Vendor": "Acme"}
    assert found["counts"]["read"] == 3
    assert sorted(shop.parent.iterdir()) == before


def test_the_table_names_columns_rejected_rows_and_what_is_left_over(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", str(shop)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "Blue mug",
        "picture_missing_in_row",
        "rows would be kept",
        "Vendor (Acme)",
        "preset: none",
        "Variant Price",
    ):
        assert text in shown


def test_so_many_rows_are_tried_as_asked_and_status_1_means_none_can_be_used(shop: Path) -> None:
    assert len(dry_run(IngestConfig(str(shop), dry_run=2)).rows) == 2
    path = write(shop.with_name("bad.csv"), "title|image", "|p0.jpg", "Hat|none.jpg")
    assert main([str(path), "--dry-run", "5"]) == 1


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--field", "title=Title", "price=Sale|Variant Price:number:USD", "--photos", "rows", "--where", "Vendor != 'Acme'"],
        [
            "--image",
            "{Handle}.jpg",
            "--group",
            "Vendor",
            "--code",
            "Handle",
            "--template",
            "{title}, Kind: {category}, Price: {price}",
        ],
        ["--no-images", "--preset", "none", "--field", "a=Title", "--where", "Vendor == Acme", "--limit", "2"],
        ["--image-root", "media", "--prompt", "What: 'is' it?", "--currency", "EUR", "--encoding", "utf-8-sig"],
    ],
)
def test_its_yaml_says_the_same(flags: list[str], shop: Path) -> None:
    shop = write(shop, *(f"{line}|{extra}" for line, extra in zip(LINES, ("Sale", "5", "", "4"))))
    settings = parse(IngestConfig, "python -m data.ingest", "", [str(shop), "--dry-run", *flags])
    (shop.parent / "same.yaml").write_text(dry_run(settings).yaml, encoding="utf-8")
    config = ["--config", str(shop.parent / "same.yaml"), "--dry-run"]
    again = parse(IngestConfig, "python -m data.ingest", "", [str(shop), *config])
    assert make_plan(again).mapping == make_plan(settings).mapping
    assert (again.limit, again.encoding) == (settings.limit, settings.encoding)


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with running_server() as server:
        path = write(tmp_path / "s.csv", "title|image", *(f"Hat {k}|{server.url}/ok/{k}.jpg" for k in range(5)))
        found = dry_run(IngestConfig(str(path), dry_run=20, allow_hosts=(server.host,)))
        assert not server.requests and [row.photo_tokens for row in found.rows] == [None] * 5 and not found.rejected


def test_a_real_run_downloads_only_the_photos_of_rows_whose_fields_are_good(tmp_path: Path) -> None:
    with running_server() as server:
        lines = [f"{'Hat' if k % 2 else ''}|{server.url}/ok/{k}.jpg {server.url}/ok/{k + 50}.jpg" for k in range(6)]
        path = write(tmp_path / "s.csv", "title|image", *lines, "Two|a b")
        flags = [str(path), "-o", str(tmp_path / "out"), "--allow-hosts", server.host, "--processes", "1"]
        assert main(flags) == 0
        assert sorted(server.requests) == ["/ok/1.jpg", "/ok/3.jpg", "/ok/5.jpg"]


def test_the_tokenizer_of_a_model_counts(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "mlx_phi3v" / "tiny"
    counted = dry_run(IngestConfig(str(shop), dry_run=5, model=folder))
    monkeypatch.setattr(module, "_CHARACTERS", 1.0)
    assert counted.counted and not dry_run(IngestConfig(str(shop), dry_run=5)).counted
    assert all(0 < row.text_tokens < 200 for row in counted.rows)


def test_an_ingest_still_needs_its_output(shop: Path) -> None:
    with pytest.raises(UserError, match="--output is required"):
        main([str(shop)])
