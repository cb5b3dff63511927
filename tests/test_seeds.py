"""Tests draw the same numbers in every run, whatever ran before them in the same process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st


def _drawn() -> list[int]:
    found: list[int] = []

    @seed(0)
    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 10**9))
    def draw(number: int) -> None:
        found.append(number)

    draw()
    return found


def test_a_module_loaded_meanwhile_changes_no_drawn_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _drawn()
    (tmp_path / "many_numbers.py").write_text("NUMBERS = [" + ", ".join(str(7 * i) for i in range(1000, 1400)) + "]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("many_numbers")
    assert _drawn() == before
