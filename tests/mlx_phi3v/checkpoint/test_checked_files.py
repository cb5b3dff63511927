"""A weight file that was found finite is checked again only where anything about it changed, or may have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v import user_cache
from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint import checked_files, finite
from mlx_phi3v.checkpoint.finite import FiniteCheck
from mlx_phi3v.checkpoint.headers import read_header
from mlx_phi3v.errors import UserError


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries are written; files count as settled at once."""
    monkeypatch.setenv("MLX_PHI3V_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked_files, "_SETTLED", -(1 << 62))
    return checked_files.path()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors whose numbers are looked at."""
    names: list[str] = []
    real = finite.require_finite

    def watched(bits: np.ndarray, dtype: str, name: str, *others: Any) -> None:
        names.append(name)
        real(bits, dtype, name, *others)

    monkeypatch.setattr(finite, "require_finite", watched)
    return names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small weight file."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(4, np.float32), "b": np.full(3, 1e5, np.float32)}, path)
    return path


def check(file: Path, target: str | None = None, names: tuple[str, ...] = ("a", "b")) -> None:
    tensors = {name: info for name, info in read_header(file).items() if name in names}
    stored = load_file(file)
    with FiniteCheck(tensors, target) as started:
        for name, info in tensors.items():
            started.add(name, info, partial(stored.__getitem__, name))


def test_an_unchanged_checkpoint_is_checked_once(
    backend_name: str,
    checkpoint: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    record: Path,
    looked_at: list[str],
) -> None:
    copy = Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "copy"))
    load_backend(backend_name, copy)
    assert len(looked_at) == len(set(looked_at)) > 20
    looked_at.clear()
    load_backend(backend_name, copy)
    assert not looked_at
    shard = copy / "model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    name = next(key for key in tensors if key.startswith("model.layers"))
    tensors[name].reshape(-1)[-1] = np.nan
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(UserError, match="holds NaN or infinite numbers"):
        load_backend(backend_name, copy)
    with pytest.raises(UserError, match="holds NaN or infinite numbers"):  # that it was refused is no entry
        load_backend(backend_name, copy)
    assert set(looked_at) <= set(read_header(shard))  # the others are believed


@pytest.mark.parametrize("key", ["path", "device", "inode", "size", "mtime_ns", "ctime_ns", "tensors"])
def test_whatever_differs_from_the_entry_is_checked(file: Path, record: Path, looked_at: list[str], key: str) -> None:
    check(file)
    (entry,) = json.loads(record.read_text())["files"]
    value = entry[key]
    record.write_text(json.dumps({"files": [entry | {key: value + 1 if isinstance(value, int) else value + "x"}]}))
    looked_at.clear()
    check(file)
    assert looked_at == ["a", "b"]
    looked_at.clear()
    check(file)
    assert not looked_at and len(json.loads(record.read_text())["files"]) == (2 if key == "path" else 1)


def test_a_file_written_within_seconds_of_its_check_is_checked_again(
    file: Path, record: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "_SETTLED", 5_000_000_000)
    old = os.stat(file).st_ctime_ns
    os.utime(file, ns=(0, 0))  # the time that a tool sets says nothing: the other one counts too
    for began, times in ((old - 10**9, 2), (old + 10**9, 2), (old + 3600 * 10**9, 1)):
        monkeypatch.setattr(checked_files.time, "time_ns", lambda began=began: began)
        check(file)
        check(file)
        assert looked_at == ["a", "b"] * times
        looked_at.clear()


def test_a_check_for_float16_holds_for_others_and_not_the_other_way(file: Path, record: Path, looked_at: list[str]) -> None:
    check(file, "bfloat16")
    with pytest.raises(UserError, match="beyond 65504"):
        check(file, "float16")
    assert looked_at == ["a", "b"] * 2
    save_file({"a": np.ones(4, np.float32), "b": np.ones(3, np.float32)}, file)
    looked_at.clear()
    for target in ("float16", "float16", "float32", None, "bfloat16"):
        check(file, target)
    assert looked_at == ["a", "b"]


def test_what_was_not_whole_is_not_remembered(file: Path, record: Path, looked_at: list[str]) -> None:
    tensors = read_header(file)
    with FiniteCheck(tensors) as started:
        started.add("a", tensors["a"], lambda: np.ones(4, np.float32))
    with pytest.raises(ZeroDivisionError), FiniteCheck(tensors) as started:
        for name, info in tensors.items():
            started.add(name, info, lambda: np.ones(4, np.float32))
        raise ZeroDivisionError
    with FiniteCheck(tensors) as started:
        for name, info in tensors.items():
            started.add(name, info, lambda: np.ones(4, np.float32))
        os.utime(file, ns=(1, 1))  # meanwhile another writes it
    assert not record.exists()
    check(file, names=("a",))
    looked_at.clear()
    check(file)
    assert looked_at == ["a", "b"]


def test_a_link_is_its_file_and_a_copy_is_another(file: Path, record: Path, looked_at: list[str]) -> None:
    check(file)
    link = file.with_name("link.safetensors")
    link.symlink_to(file)
    looked_at.clear()
    check(link)
    assert not looked_at
    copy = file.with_name("copy.safetensors")
    shutil.copy2(file, copy)
    link.unlink()
    link.symlink_to(copy)
    check(link)
    assert looked_at == ["a", "b"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"files": [{"path": 5}]}', b'{"files": null}', b"\xff\xfe", b"[" * 5000]
)
def test_a_corrupt_record_is_written_again(
    file: Path, record: Path, looked_at: list[str], content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    record.parent.mkdir()
    record.write_bytes(content)
    check(file)
    check(file)
    assert looked_at == ["a", "b"] and capsys.readouterr() == ("", "")


def test_where_nothing_can_be_kept_all_is_checked(
    file: Path, record: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check(file)
    (tmp_path / "folder" / record.name).mkdir(parents=True)
    for place in (os.path.join(os.devnull, "none"), str(file), str(tmp_path / "folder"), str(tmp_path / ("x" * 300))):
        monkeypatch.setenv("MLX_PHI3V_CACHE", place)
        looked_at.clear()
        check(file)
        check(file)
        assert looked_at == ["a", "b"] * 2
    monkeypatch.delenv("MLX_PHI3V_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(user_cache.Path, "home", homeless)
    looked_at.clear()
    check(file)
    check(file)
    assert looked_at == ["a", "b"] * 2


def test_the_newest_entries_are_kept(file: Path, record: Path, looked_at: list[str]) -> None:
    check(file)
    (entry,) = msgspec.json.decode(record.read_bytes())["files"]
    many = [entry | {"path": f"/old/{i}"} for i in range(2 * checked_files.MOST)]
    record.write_bytes(msgspec.json.encode({"files": many}))
    check(file)
    kept = msgspec.json.decode(record.read_bytes())["files"]
    assert len(kept) == checked_files.MOST and kept[-1] == entry and kept[0]["path"] == f"/old/{checked_files.MOST + 1}"
