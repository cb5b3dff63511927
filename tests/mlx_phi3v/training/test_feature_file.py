"""A cached feature is believed only where its file is whole and of that photo; everything else is made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.training import feature_cache
from mlx_phi3v.training.feature_cache import FeatureCache
from mlx_phi3v.training.feature_file import SIGNED, FeatureFolder

PHOTO, OTHER = "a" * 64, "b" * 64
GRID = (1, 2)  # three crops are encoded


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureFolder:
    """Of crops with four features of width 8."""
    return FeatureFolder(tmp_path / "key", request.param, num_crops=4, patches=4, width=8).open()


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    """fp32 [3 * 4 + 2, 8], exact in every dtype."""
    return rng.integers(-64, 64, (14, 8)).astype(np.float32)


def test_features_come_back_as_they_were_stored(files: FeatureFolder, features: np.ndarray) -> None:
    assert files.read(PHOTO) is None
    assert files.write(PHOTO, features, GRID) == files.size(PHOTO) <= files.bytes_of(features)
    found = files.read(PHOTO)
    assert found is not None and found[1] == GRID
    np.testing.assert_array_equal(found[0], features)


def test_any_flipped_bit_is_noticed(files: FeatureFolder, features: np.ndarray, rng: np.random.Generator) -> None:
    files.write(PHOTO, features, GRID)
    whole = files.path(PHOTO).read_bytes()
    for bit in (*range(8 * 8), *rng.integers(0, 8 * len(whole), 150).tolist()):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        files.path(PHOTO).write_bytes(changed)
        found = files.read(PHOTO)
        # Blanks behind the header and the case of a letter in JSON's white space hold nothing.
        assert found is None or (found[1] == GRID and np.array_equal(found[0], features))


def _rewritten(change: Callable[[dict[str, np.ndarray]], Any], metadata: dict[str, str] | None = None) -> Any:
    def rewrite(files: FeatureFolder) -> None:
        tensors = load_file(files.path(PHOTO))
        change(tensors)
        save_file(tensors, files.path(PHOTO), metadata)

    return rewrite


def _of_another_photo(files: FeatureFolder) -> None:
    files.write(OTHER, np.ones((14, 8), np.float32), GRID)
    shutil.copy(files.path(OTHER), files.path(PHOTO))


def _of_another_cache(files: FeatureFolder) -> None:
    other = FeatureFolder(files.folder.with_name("other"), files.dtype, 4, 4, 8).open()
    other.write(PHOTO, np.ones((14, 8), np.float32), GRID)
    shutil.copy(other.path(PHOTO), files.path(PHOTO))


def _without(files: FeatureFolder) -> Path:
    files.path(PHOTO).unlink()
    return files.path(PHOTO)


DAMAGES: dict[str, Callable[[FeatureFolder], Any]] = {
    "written again without its checksum": _rewritten(lambda tensors: None),
    "written again with other metadata": _rewritten(lambda tensors: None, {"format": "pt"}),
    "zeros": _rewritten(lambda tensors: tensors["features"].fill(0)),
    "NaN": _rewritten(lambda tensors: tensors["features"].view(np.uint8).fill(0xFF)),
    "int8": _rewritten(lambda tensors: tensors.update(features=tensors["features"].astype(np.int8))),
    "scalar grid": _rewritten(lambda tensors: tensors.update(grid=np.array(1))),
    "transposed grid": _rewritten(lambda tensors: tensors.update(grid=tensors["grid"][::-1].copy())),
    "negative grid": _rewritten(lambda tensors: tensors.update(grid=-tensors["grid"])),
    "huge grid": _rewritten(lambda tensors: tensors.update(grid=tensors["grid"] + 2**40)),
    "float grid": _rewritten(lambda tensors: tensors.update(grid=tensors["grid"].astype(np.float64))),
    "transposed features": _rewritten(lambda tensors: tensors.update(features=tensors["features"].T.copy())),
    "another tensor": _rewritten(lambda tensors: tensors.update(more=np.ones(2))),
    "no grid": _rewritten(lambda tensors: tensors.pop("grid")),
    "another photo's": _of_another_photo,
    "another cache's": _of_another_cache,
    "truncated": lambda files: os.truncate(files.path(PHOTO), files.size(PHOTO) - 1),
    "empty": lambda files: files.path(PHOTO).write_bytes(b""),
    "longer": lambda files: files.path(PHOTO).write_bytes(files.path(PHOTO).read_bytes() + b"\0"),
    "huge": lambda files: os.truncate(files.path(PHOTO), 1 << 40),
    "text": lambda files: files.path(PHOTO).write_text("not a safetensors file, " * 10),
    "a pipe": lambda files: os.mkfifo(_without(files)),
    "a dead link": lambda files: os.symlink("nowhere", _without(files)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_written_is_made_again(files: FeatureFolder, features: np.ndarray, damage: str) -> None:
    files.write(PHOTO, features, GRID)
    DAMAGES[damage](files)
    assert files.read(PHOTO) is None
    files.write(PHOTO, features, GRID)
    found = files.read(PHOTO)
    assert found is not None and np.array_equal(found[0], features)


# What a folder of an earlier version may hold is seen by its form only.
SEEN = sorted({name for name in DAMAGES} - {
    "written again without its checksum", "zeros", "transposed grid", "another photo's", "another cache's",
} )  # fmt: skip


@pytest.mark.parametrize("damage", SEEN)
def test_a_file_without_a_checksum_is_checked_as_far_as_it_goes(
    files: FeatureFolder, features: np.ndarray, damage: str
) -> None:
    (files.folder / SIGNED).unlink()
    files.write(PHOTO, features, GRID)
    _rewritten(lambda tensors: None)(files)
    files = _opened(files)
    assert files.path(PHOTO).name in (files.folder / SIGNED).read_text().splitlines()
    found = files.read(PHOTO)
    assert found is not None and np.array_equal(found[0], features)
    DAMAGES[damage](files)
    assert files.read(PHOTO) is None


def _opened(files: FeatureFolder) -> FeatureFolder:
    """The folder as the next process opens it."""
    return replace(files).open()


def test_without_its_list_a_folder_with_checksums_believes_no_file_that_lacks_one(
    files: FeatureFolder, features: np.ndarray
) -> None:
    files.write(PHOTO, features, GRID)
    files.write(OTHER, features, GRID)
    _rewritten(lambda tensors: tensors["features"].fill(0))(files)
    (files.folder / SIGNED).unlink()
    for opened in (_opened(files), _opened(files)):
        assert opened.read(PHOTO) is None and opened.read(OTHER) is not None
    old = FeatureFolder(files.folder.with_name("old"), files.dtype, 4, 4, 8)
    old.folder.mkdir()
    shutil.copy(files.path(PHOTO), old.folder)
    assert _opened(old).read(PHOTO) is not None
    shutil.copy(files.path(PHOTO), old.path(OTHER))  # one that came later
    assert _opened(old).read(OTHER) is None and _opened(old).read(PHOTO) is not None


@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_file_is_read_as_it_was_or_not_at_all(tmp_path: Path, data: st.DataObject) -> None:
    files = FeatureFolder(tmp_path / "key", "float32", num_crops=4, patches=4, width=8)
    values = np.arange(112, dtype=np.float32).reshape(14, 8)
    if not (tmp_path / "whole").exists():
        files.open().write(PHOTO, values, GRID)
        shutil.copy(files.path(PHOTO), tmp_path / "whole")
    raw = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"9", b"[", b'"', b"e9"])
        )
    files.path(PHOTO).write_bytes(raw)
    found = files.read(PHOTO)
    assert found is None or (found[1] == GRID and np.array_equal(found[0], values))


def test_leftovers_of_killed_processes_are_swept(files: FeatureFolder) -> None:
    left = files.folder / ".x.mlx_phi3v-0123abcd.tmp.safetensors"
    left.touch()
    (files.folder / ".mine.tmp").touch()
    files.open()
    assert not left.exists() and (files.folder / ".mine.tmp").exists()


@pytest.fixture
def backend(checkpoint: Path) -> Backend:
    pytest.importorskip("mlx")
    return load_backend("mlx", checkpoint, dtype="float32")


@pytest.fixture
def examples(backend: Backend, small_catalogue: Path) -> Callable[[FeatureCache], list[Example]]:
    """The examples of four rows, with the features that a cache has."""
    catalogue = Catalogue(small_catalogue)
    rows = [catalogue.split("train")[i] for i in range(4)]

    def make(cache: FeatureCache) -> list[Example]:
        maker = ExampleMaker(PromptProcessor(backend.folder), backend.config, catalogue.task, 2, process=cache.image)
        return [maker(row, with_answer=True) for row in rows]

    return make


def table(examples: list[Example]) -> list[np.ndarray]:
    return [image.features for example in examples for image in example.images if image.features is not None]


def test_a_corrupt_file_is_counted_and_the_answers_stay(
    backend: Backend, examples: Callable[[FeatureCache], list[Example]], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path, backend, 2, 1.0)
    plain = table(cache.fill(examples(cache)))
    for path in cache.folder.glob("*.safetensors"):
        tensors = load_file(path)
        tensors["features"] += 1
        save_file(tensors, path)
    size = cache.bytes
    again = FeatureCache(tmp_path, backend, 2, 1.0)
    for mine, other in zip(table(again.fill(examples(again))), plain, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert again.corrupt == again.made == cache.made
    assert f"({again.made} of them again, their files were corrupt)" in again.summary()
    assert again.bytes == size == sum(path.stat().st_size for path in cache.folder.glob("*.safetensors"))


def test_two_caches_share_a_folder(backend: Backend, examples: Callable[[FeatureCache], list[Example]], tmp_path: Path) -> None:
    one, other = (FeatureCache(tmp_path, backend, 2, 1.0) for _ in range(2))
    waiting = examples(one)
    plain = table(other.fill(examples(other)))
    for mine, theirs in zip(table(one.fill(waiting)), plain, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one.made == 0 and one.corrupt == other.corrupt == 0


def test_a_full_disk_ends_the_caching_and_not_the_run(
    backend: Backend, examples: Callable[[FeatureCache], list[Example]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cache = FeatureCache(tmp_path, backend, 2, 1.0)

    def full(self: FeatureFolder, photo: str, *arguments: Any) -> int:
        raise OSError(28, "No space left on device", str(self.path(photo)))

    monkeypatch.setattr(feature_cache.FeatureFolder, "write", full)
    assert len(table(cache.fill(examples(cache)))) > 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("note: --feature-cache: cannot write ") and "No space left" in said and "\n" not in said


def test_features_that_overflow_are_not_cached(
    backend: Backend, examples: Callable[[FeatureCache], list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, backend, 2, 1.0)
    waiting = examples(cache)
    monkeypatch.setattr(backend, "vision_features", lambda crops: np.full((2, 64), np.inf, np.float32))
    monkeypatch.setattr(backend, "dtype", "float16")
    with pytest.raises(UserError, match=r"a photo's features are NaN or infinite; float16 holds numbers up to 65504"):
        cache.fill(waiting)
    assert not list(cache.folder.glob("*.safetensors"))
