"""What an ingest finds of earlier runs and of other processes: its own catalogue, a lock, leftovers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest import workers
from data.ingest.download_store import DownloadStore
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from mlx_phi3v.errors import UserError
from mlx_phi3v.locks import locked


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A table of ten rows."""
    path = tmp_path / "shop.csv"
    path.write_text("title,price,code\n" + "".join(f"Hat {i},{i},c{i}\n" for i in range(10)))
    return path


def take(source: Path, output: Path, **settings: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"fields": {"title": {"column": "title"}}, "images": False, "processes": 1}
    return ingest(IngestConfig(source=str(source), output=output, **(defaults | settings)))


def test_the_same_ingest_again_finds_its_catalogue(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, work = shop, tmp_path / "out", tmp_path / ".out.ingest"
    info = json.loads(json.dumps(take(path, out)))
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(workers, "check_chunk", lambda *_: 1 / 0)
        assert take(path, out) == info
        (work / "pieces").mkdir(parents=True)  # what a run that was killed at its very end leaves
        assert take(path, out) == info
    assert capsys.readouterr().err.count("out is there already, made of the same source with the same settings") == 2
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times and not work.exists()
    for other in ({"seed": 7}, {"encoding": "latin-1"}, {"quoting": "none"}, {"fields": {"title": {"column": "code"}}}):
        with pytest.raises(UserError, match="out exists and is not empty"):
            take(path, out, **other)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="out exists and is not empty"):
        take(path, out)
    assert not work.exists()


def test_an_output_that_another_ingest_writes_is_refused(shop: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".out.ingest", folder=True), pytest.raises(UserError, match=r"another process is writing .*/out;"):
        take(shop, tmp_path / "out")
    assert list((tmp_path / ".out.ingest").iterdir()) == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "text"), [("mine.txt", "x"), ("plan.json", "[1]"), ("plan.json", '{"digest": 5}')])
def test_a_folder_of_the_users_own_where_an_ingest_works_stays(shop: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / ".out.ingest").mkdir()
    (tmp_path / ".out.ingest" / name).write_text(text)
    with pytest.raises(UserError, match=rf"\.out\.ingest holds what no ingest wrote \({name}\)"):
        take(shop, tmp_path / "out")
    assert (tmp_path / ".out.ingest" / name).read_text() == text and not (tmp_path / "out").exists()


def test_a_table_without_rows_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("title,price\n")
    with pytest.raises(UserError, match="holds no rows"):
        take(tmp_path / "shop.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_what_killed_runs_left_among_downloads_is_removed(tmp_path: Path) -> None:
    store = DownloadStore(tmp_path / "photos", tmp_path / "failures")
    store.save("https://a.example/1.jpg", b"photo")
    store.save_failure("https://a.example/2.jpg", "download_timeout", "")
    kept = {path for path in tmp_path.rglob("*")}
    for path in [path for path in kept if path.is_file()]:
        path.with_name(f".{path.name}.mlx_phi3v-0a1b2c3d.tmp").write_bytes(b"half")
    store.sweep()
    assert {path for path in tmp_path.rglob("*")} == kept
