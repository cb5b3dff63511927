"""An ingest that knows the model reports the rows that are too long for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.ingest.__main__ import main


def test_rows_that_are_too_long_are_reported(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"title": "Hat"}, {"title": "A hat that is longer " * 40}]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = [str(tmp_path / "s.jsonl"), "--no-images", "--processes", "1", "--model", str(checkpoint)]
    assert main([*common, "--output", str(tmp_path / "a")]) == 0
    assert "no row takes more than" in capsys.readouterr().out
    assert main([*common, "--output", str(tmp_path / "b"), "--max-length", "100"]) == 0
    assert "warning: 1 rows take more than 100 tokens" in capsys.readouterr().out
    assert main([*common, "--output", str(tmp_path / "c"), "--max-length", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["long_rows"]["over"] == {"train": 1}
