"""Recorded cases on a backend: what is computed once for all steps is what each step would compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v.batches import collate
from mlx_phi3v.golden.cases import check_greedy, load_cases, with_features
from mlx_phi3v.golden.checks import TOLERANCES, relative_error
from tests.helpers.paths import GOLDEN


@pytest.mark.numeric
def test_without_a_cache_the_tower_runs_once_and_its_features_are_those_of_every_step(
    load: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    [case] = [case for case in load_cases(GOLDEN) if case.name == "two_images"]
    backend = load(GOLDEN / "checkpoint")
    image_side, encoded = type(backend.model.model.vision_embed_tokens), list[int]()
    encode = image_side.encode

    def counted(self: Any, crops: Any) -> Any:
        encoded.append(len(crops))
        return encode(self, crops)

    monkeypatch.setattr(image_side, "encode", counted)
    from_crops = backend.forward(collate([case.prompt], backend.config))
    from_features = backend.forward(collate([with_features(backend, case.prompt)], backend.config))
    for ours, theirs in zip(from_features.hidden_states, from_crops.hidden_states, strict=True):
        assert relative_error(ours, theirs) <= TOLERANCES["hidden states"]
    assert encoded == [2, 2]
    [check] = check_greedy(backend, case, ways=(False,))
    assert check.passed and check.stage == "greedy uncached" and encoded == [2, 2, 2]


def test_a_text_has_no_features() -> None:
    [case] = [case for case in load_cases(GOLDEN) if case.name == "text_only"]
    assert with_features(None, case.prompt) is case.prompt  # type: ignore[arg-type]  # no backend is asked
