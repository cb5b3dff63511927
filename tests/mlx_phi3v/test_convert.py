"""A converted folder holds every tensor of its source, records where it came from, and appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v.checkpoint import writer
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.headers import open_checkpoint
from mlx_phi3v.checkpoint.layout import CLIP, is_quantized, stored_tensors
from mlx_phi3v.config import load_model_config
from mlx_phi3v.convert import ConvertConfig, convert, main
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_file

mx = pytest.importorskip("mlx.core")


def read_all(folder: Path) -> dict[str, Any]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in mx.load(str(file)).items()}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_arrives_bit_for_bit(make_checkpoint: Callable[..., Path], tmp_path: Path, shards: int) -> None:
    source = make_checkpoint(shards=shards)
    summary = convert(ConvertConfig(str(source), tmp_path / "out"))
    before, after = read_all(source), read_all(tmp_path / "out")
    assert after.keys() == before.keys() and summary["tensors"] == len(before)
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(after[name]), np.array(value), err_msg=name)
    assert summary["bytes"] == sum(value.nbytes for value in before.values())
    assert load_model_config(tmp_path / "out") == load_model_config(source)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "conversion.json",
        "model.safetensors", "model.safetensors.index.json", "phi3v_mlx_vlm.py", "README.md",
    }  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_only_the_language_layers_are_packed(checkpoint: Path, tmp_path: Path, bits: int, dtype: str | None) -> None:
    folder = tmp_path / "out"
    convert(ConvertConfig(str(checkpoint), folder, quantize=True, q_bits=bits, q_group_size=32, dtype=dtype))
    config = load_model_config(folder)
    assert config.quantization is not None and (config.quantization.bits, config.quantization.group_size) == (bits, 32)
    tensors = open_checkpoint(folder, config)
    assert {name: info.shape for name, info in tensors.items()} == stored_tensors(config)
    source, packed = read_all(checkpoint), read_all(folder)
    stored = {None: "float32", "bfloat16": "bfloat16", "float16": "float16"}[dtype]
    for name, value in source.items():
        if is_quantized(name):
            stem = name.removesuffix("weight")
            parts = [packed[stem + part] for part in ("weight", "scales", "biases")]
            assert [str(part.dtype) for part in parts] == ["mlx.core.uint32", f"mlx.core.{stored}", f"mlx.core.{stored}"]
            scales, biases = (part.astype(mx.float32) for part in parts[1:])
            unpacked = np.array(mx.dequantize(parts[0], scales, biases, group_size=32, bits=bits))
            # Within a step: MLX moves the grid so that its furthest value is exact.
            rounding = {None: 0, "bfloat16": 2**-7, "float16": 2**-10}[dtype] * np.abs(np.array(value)).max()
            assert np.abs(unpacked - np.array(value)).max() < 1.01 * np.array(mx.abs(scales)).max() + rounding
        else:
            expected = value.astype(getattr(mx, stored)).astype(mx.float32)
            np.testing.assert_array_equal(np.array(packed[name].astype(mx.float32)), np.array(expected), err_msg=name)


def test_the_folder_says_what_it_came_from(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = make_checkpoint(shards=3)
    convert(ConvertConfig(str(source), tmp_path / "out", quantize=True, q_bits=8, q_group_size=32))
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["source"] == str(source) and record["source_fingerprint"] == base_fingerprint(source)
    assert record["source_sha256"] == {file.name: sha256_file(file) for file in source.glob("*.safetensors")}
    assert record["settings"] == {"quantize": True, "q_bits": 8, "q_group_size": 32, "dtype": None, "model_file": True}
    # An adapter of the source fits every conversion of it, also one of a conversion.
    assert base_fingerprint(tmp_path / "out") == base_fingerprint(source)
    convert(ConvertConfig(str(source), tmp_path / "half", dtype="bfloat16"))
    convert(ConvertConfig(str(tmp_path / "half"), tmp_path / "again", quantize=True, q_group_size=32))
    assert base_fingerprint(tmp_path / "again") == base_fingerprint(source)


def test_weights_are_spread_over_shards_of_a_bounded_size(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 300_000)
    summary = convert(ConvertConfig(str(checkpoint), tmp_path / "out", dtype="bfloat16"))
    assert len(summary["files"]) > 3 and not list((tmp_path / "out").glob("*.tmp"))
    largest = max(value.nbytes for value in read_all(tmp_path / "out").values())
    for name in summary["files"]:
        assert (tmp_path / "out" / name).stat().st_size < max(300_000, largest) + 50_000
    open_checkpoint(tmp_path / "out", load_model_config(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(summary["files"])


def test_tensors_that_nobody_reads_are_left_out(checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    file = source / "model.safetensors"
    save_file(load_file(file) | {CLIP + "embeddings.position_ids": np.arange(17)[None]}, file)
    (source / "config.json").write_text(
        json.dumps(json.loads((source / "config.json").read_text()) | {"auto_map": {"A": "b.C"}})
    )
    convert(ConvertConfig(str(source), tmp_path / "out"))
    assert read_all(tmp_path / "out").keys() == read_all(checkpoint).keys()
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": True, "q_bits": 3}, "--q-bits 3"),
        ({"quantize": True, "q_group_size": 48}, "--q-group-size 48"),
        ({"quantize": True, "q_group_size": 64}, "--q-group-size 64 does not divide the model's width 96; choose 32"),
        ({"hf_path": "{tmp}/nowhere"}, "--hf-path .*nowhere is not a folder"),
        ({"hf_path": "{tmp}/empty"}, r"no config\.json"),
    ],
)
def test_what_cannot_be_converted_is_named(checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    options = {"hf_path": str(checkpoint), "mlx_path": tmp_path / "out"} | options
    options = {k: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(UserError, match=message):
        convert(ConvertConfig(**options))
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_an_existing_folder_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UserError, match="out exists and is not empty; choose another folder"):
        convert(ConvertConfig(str(checkpoint), tmp_path / "out"))
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


def test_the_same_command_again_finds_its_folder(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = Path(shutil.copytree(checkpoint, tmp_path / "source")), tmp_path / "out"
    flags = ["--hf-path", str(source), "--mlx-path", str(out), "--json"]
    assert main(flags) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(flags) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: {out} is there already, made of the same weights in the same way; nothing was done\n"
    again = json.loads(captured.out.splitlines()[-1])
    assert {name: again[name] for name in ("path", "files", "tensors", "bytes")} == {
        name: first[name] for name in ("path", "files", "tensors", "bytes")
    }
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="out exists and is not empty"):
        main([*flags, "--dtype", "bfloat16"])
    weights = source / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of the last tensor's end, which its fingerprint leaves out
    weights.write_bytes(content)
    with pytest.raises(UserError, match="out exists and is not empty"):
        main(flags)
    shutil.copy(checkpoint / weights.name, weights)
    assert main(flags) == 0
    (out / "model.safetensors").unlink()
    with pytest.raises(UserError, match="out exists and is not empty"):
        main(flags)


def test_a_packed_folder_is_not_packed_again(checkpoint: Path, tmp_path: Path) -> None:
    convert(ConvertConfig(str(checkpoint), tmp_path / "q", quantize=True, q_group_size=32))
    with pytest.raises(UserError, match="is already quantised; convert from the published weights"):
        convert(ConvertConfig(str(tmp_path / "q"), tmp_path / "out", quantize=True, q_group_size=32))


@pytest.mark.parametrize("tensor", [0, 20, -1])
def test_a_full_disk_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: int
) -> None:
    names: list[str] = []
    add, close = writer.ShardWriter.add, writer.ShardWriter.close

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    def counted(self: writer.ShardWriter, name: str, *rest: Any) -> None:
        names.append(name)
        full() if len(names) == tensor + 1 else add(self, name, *rest)

    monkeypatch.setattr(writer.ShardWriter, "add", counted)
    monkeypatch.setattr(writer.ShardWriter, "close", full if tensor < 0 else close)
    with pytest.raises(OSError, match="No space left"):
        convert(ConvertConfig(str(checkpoint), tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_the_commands_flags_are_those_of_mlx_lm(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--hf-path",
        checkpoint,
        "--mlx-path",
        tmp_path / "out",
        "-q",
        "--q-bits",
        8,
        "--q-group-size",
        32,
        "--dtype",
        "float16",
    ]
    assert main([*map(str, flags), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "done" and events[-1]["path"] == str(tmp_path / "out")
    assert load_model_config(tmp_path / "out").quantization is not None
