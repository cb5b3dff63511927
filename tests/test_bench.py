"""The benches say what they lack before they measure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


def test_a_plot_without_matplotlib_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    bench = importlib.import_module("bench")
    monkeypatch.setattr(bench, "bench_scaling", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        bench.main(["scaling", "--plot", str(tmp_path / "plot.png")])
    assert ended.value.code == 2 and "--plot needs matplotlib: pip install matplotlib" in capsys.readouterr().err
