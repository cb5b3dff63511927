"""A continuation row is filled from its product's first row, however many products stand between the two."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from data.ingest.ingest_config import IngestConfig
from data.ingest.plan import make_plan
from data.ingest.product_groups import Groups


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.ingest.product_groups._MOST_IN_MEMORY", 10)
    monkeypatch.setattr("data.ingest.product_groups._MOVED_AT_ONCE", 4)


@pytest.mark.usefixtures("few")
def test_a_product_is_remembered_beyond_what_memory_holds(tmp_path: Path) -> None:
    first = [f"h{k},Pot {k},{k}.50,a{k}.jpg" for k in range(100)]
    further = [f"h{k},,,b{k}.jpg" for k in range(99, -1, -1)]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["Handle,Title,Variant Price,Image Src", *first, *further]) + "\n")
    rows = [row.values for row in make_plan(IngestConfig(str(path), tmp_path / "out")).rows]
    titles = [row["Title"] for row in rows if isinstance(row, dict)]
    assert titles == [f"Pot {k}" for k in [*range(100), *range(99, -1, -1)]]


@pytest.mark.usefixtures("few")
def test_groups_are_what_a_dictionary_would_hold_also_by_their_aliases() -> None:
    groups, expected = Groups(), dict[str, dict[str, int]]()
    rng = random.Random(0)
    for step in range(3000):
        name = f"n{rng.randrange(60)}\ud83d"
        group = groups.get(name) or groups.add(name)
        own = expected.setdefault(name, {})
        if len(group.keys) < 3:
            alias = f"a{rng.randrange(60)}"
            groups.add_alias(alias, group)
            expected.setdefault(alias, own)
        values = group.first.setdefault(("x",), {})
        assert values == own
        values[str(step % 7)] = own[str(step % 7)] = step
        asked = f"a{rng.randrange(60)}"
        found = groups.get(asked)
        assert (found.first[("x",)] if found else None) == expected.get(asked)
        assert len(groups._held) <= 13


def test_a_group_that_the_scratch_file_does_not_know_is_none(few: None) -> None:
    groups = Groups()
    for k in range(50):
        groups.add(f"n{k}")
    assert groups.get("n0") is not None and groups.get("x") is None
