"""Weights are read from where the format says, or refused by name: places, dtypes, numbers, and which files they are in."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.finite import require_finite
from mlx_phi3v.checkpoint.headers import open_checkpoint, read_header, read_tensors
from mlx_phi3v.checkpoint.layout import EMBEDDING, EMBEDDING_COPY
from mlx_phi3v.config import load_model_config
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.errors import UserError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def sharded(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint in three files."""
    return Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "sharded"))


def write_raw(path: Path, header: Any, data: bytes) -> Path:
    """A safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin: Any, end: Any, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, end]} | changes


BAD_HEADERS: list[tuple[Any, str]] = [
    ({"a": entry(-8, 0), "b": entry(0, 8), "c": entry(8, 16)}, r"data_offsets\[0\] is -8"),
    ({"a": entry(0, 8), "b": entry(0, 8)}, 'tensor "b" overlaps tensor "a"'),
    ({"a": entry(0, 8), "b": entry(4, 12)}, 'tensor "b" overlaps tensor "a"'),
    ({"a": entry(0, 8), "b": entry(12, 20)}, "does not begin where"),
    ({"a": entry(8, 16)}, "does not begin where the header ends"),
    ({"a": entry(0, 8)}, "8 bytes follow its last tensor"),
    ({"a": entry(0, 8), "b": entry(8, 1 << 45)}, "do not fit its shape"),
    ({"a": entry(0, 8), "b": entry(8, 8 + (1 << 40), shape=[1 << 38])}, "is truncated"),
    ({"a": entry(8, 0)}, "do not fit its shape"),
    ({"a": entry(0, 16, shape=[-2, -2])}, r"shape\[0\] is -2"),
    ({"a": entry(0, 16, shape=[10**30])}, r"shape\[0\]"),
    ({"a": entry(0, 16, shape=[1] * 1000)}, "shape"),
    ({"a": entry(0, 16, shape="4")}, "shape"),
    ({"a": entry(0, 16, shape=[4.0])}, r"shape\[0\]"),
    ({"a": entry(0, 16, dtype=["F32"], shape=[4])}, "dtype"),
    ({"a": entry(0, 16, dtype="F31", shape=[4])}, 'unknown dtype "F31"'),
    ({"a": entry("0", 16, shape=[4])}, "data_offsets"),
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 32]}}, "data_offsets"),
    ({"a": 5}, 'tensor "a"'),
    ({"a": entry(0, 16, shape=[4]), "__metadata__": {"format": 5}}, r"__metadata__\.format is 5; it must be text"),
    ({"a": entry(0, 16, shape=[4]), "__metadata__": 0}, "__metadata__ is 0; it must be an object"),
    ({"a": entry(0, 16, shape=[4]), "__metadata__": [1]}, r"__metadata__ is \[1\]; it must be an object"),
    ([1], "not a safetensors file"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' + json.dumps(entry(0, 8)).encode() + b',"a":' + json.dumps(entry(8, 16)).encode() + b"}", "a is given twice"),
    (b"\xff\xff", "not a safetensors file"),
]


@pytest.mark.parametrize(("header", "message"), BAD_HEADERS)
def test_a_header_that_points_elsewhere_is_refused(tmp_path: Path, header: Any, message: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, bytes(16))
    with pytest.raises(UserError, match=rf"model\.safetensors.*{message}"):
        read_header(path)


def test_tensors_of_a_header_may_stand_in_any_order(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 16), "none": entry(8, 8, shape=[0]), "a": entry(0, 8)}
    assert {name: info.size for name, info in read_header(write_raw(tmp_path / "x", header, bytes(16))).items()} == {
        "a": 8, "b": 8, "none": 0,
    }  # fmt: skip


def test_a_header_too_large_for_a_model_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)  # a hole: it takes no room
    with pytest.raises(UserError, match=r"model\.safetensors has a header of"):
        read_header(path)


@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}, path, {"format": "pt"})
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"-", b"9", b"[", b'"'])
        )
    path.write_bytes(raw)
    try:
        tensors = read_header(path)
    except UserError as error:
        assert "x.safetensors" in str(error)
    else:
        assert all(info.start >= 8 and info.start + info.size <= len(raw) for info in tensors.values())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.float64, np.bool_])
def test_weights_that_are_no_floats_are_refused(copy: Path, dtype: type[np.generic]) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"model\.safetensors: model\.norm\.weight is of dtype .*it must be one of F32"):
        open_checkpoint(copy, load_model_config(copy))


def test_packed_weights_must_be_packed(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx")
    convert(ConvertConfig(hf_path=str(copy), mlx_path=tmp_path / "packed", quantize=True, q_group_size=32))
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].view(np.int32)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"down_proj\.weight is of dtype I32; packed weights must be U32"):
        open_checkpoint(tmp_path / "packed", load_model_config(tmp_path / "packed"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_numbers_that_are_not_finite_are_refused_while_loading(backend_name: str, copy: Path, value: float, name: str) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    tensors[name].reshape(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds NaN or infinite numbers"):
        load_backend(backend_name, copy)
    if backend_name == "mlx":
        with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds NaN or infinite numbers"):
            convert(ConvertConfig(hf_path=str(copy), mlx_path=copy.parent / "converted"))
        assert not (copy.parent / "converted").exists()


@pytest.mark.parametrize(
    ("dtype", "width", "good", "bad"),
    [
        ("F32", 4, [0, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0x80000000], [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001]),
        ("BF16", 2, [0, 0x7F7F, 0xFF7F, 1, 0x8000], [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81]),
        ("F16", 2, [0, 0x7BFF, 0xFBFF, 1, 0x8000], [0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01]),
        ("F64", 8, [0, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF], [0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, (1 << 64) - 1]),
    ],
)
def test_every_kind_of_number_is_judged_by_its_bits(dtype: str, width: int, good: list[int], bad: list[int]) -> None:
    bits = np.tile(np.array(good, f"u{width}"), 100_000)  # more than one chunk
    require_finite(bits, dtype, "a", Path("x"))
    for pattern in bad:
        for place in (0, len(bits) // 2, len(bits) - 1):
            changed = bits.copy()
            changed[place] = pattern
            with pytest.raises(UserError, match="x: a holds NaN or infinite numbers"):
                require_finite(changed, dtype, "a", Path("x"))
    require_finite(np.full(9, (1 << 32) - 1, np.uint32), "U32", "packed", Path("x"))
    require_finite(np.empty(0, f"u{width}"), dtype, "empty", Path("x"))


@pytest.mark.parametrize(
    ("dtype", "stored", "most", "beyond"),
    # 65520 lies between 65504, the largest of float16, and infinity: it rounds to the even one, which is infinity.
    [("F32", "u4", 0x477FEFFF, 0x477FF000), ("BF16", "u2", 0x477F, 0x4780), ("F64", "u8", 0x40EFFDFFFFFFFFFF, 0x40EFFE << 40)],
)
def test_what_float16_cannot_hold_is_told_by_its_bits(dtype: str, stored: str, most: int, beyond: int) -> None:
    sign = 1 << 8 * int(stored[1]) - 1
    require_finite(np.array([most, most | sign], stored), dtype, "a", Path("x"), "float16")
    for pattern in (beyond, beyond | sign):
        require_finite(np.array([0, pattern], stored), dtype, "a", Path("x"), "bfloat16")
        with pytest.raises(UserError, match="x: a holds numbers beyond 65504, the most of float16; use --dtype"):
            require_finite(np.array([0, pattern], stored), dtype, "a", Path("x"), "float16")
    if dtype == "F32":
        with np.errstate(over="ignore"):
            values = np.array([most, beyond], stored).view(np.float32).astype(np.float16)
        assert values[0] == 65504 and np.isinf(values[1])


def test_weights_beyond_float16_are_refused_by_name(backend_name: str, copy: Path) -> None:
    path, name = copy / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(path)
    tensors[name] = tensors[name].astype(np.float32)
    tensors[name].reshape(-1)[-1] = -70000
    save_file(tensors, path)
    load_backend(backend_name, copy, dtype="bfloat16")
    with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds numbers beyond 65504"):
        load_backend(backend_name, copy, dtype="float16")
    if backend_name == "mlx":
        with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds numbers beyond 65504"):
            convert(ConvertConfig(hf_path=str(copy), mlx_path=copy.parent / "converted", dtype="float16"))


def test_other_files_beside_the_weights_are_left_alone(copy: Path) -> None:
    before, fingerprint = open_checkpoint(copy, load_model_config(copy)), base_fingerprint(copy)
    old = {name: value * 0.5 for name, value in load_file(copy / "model.safetensors").items()}
    for name in ("model_old.safetensors", "consolidated.safetensors", "zz.safetensors"):
        save_file(old, copy / name)
    save_file({"base_model.model.lm_head.lora_A.weight": np.zeros((2, 64), np.float32)}, copy / "adapter_model.safetensors")
    assert open_checkpoint(copy, load_model_config(copy)) == before and base_fingerprint(copy) == fingerprint


def test_shards_without_an_index_are_read_where_they_are_whole(sharded: Path) -> None:
    whole = read_tensors(sharded)
    (sharded / INDEX).unlink()
    assert read_tensors(sharded) == whole
    (sharded / "model-00002-of-00003.safetensors").rename(sharded / "aside")
    with pytest.raises(UserError, match=r"sharded lacks model-00002-of-00003\.safetensors"):
        read_tensors(sharded)
    shutil.copyfile(sharded / "aside", sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match="shards of two checkpoints"):
        read_tensors(sharded)


def test_a_single_file_beside_shards_is_ambiguous(sharded: Path, checkpoint: Path) -> None:
    shutil.copyfile(checkpoint / "model.safetensors", sharded / "model.safetensors")
    with pytest.raises(UserError, match=r"names other files; remove what is old"):
        read_tensors(sharded)
    (sharded / INDEX).unlink()
    with pytest.raises(UserError, match=r"has model\.safetensors and model-00001-of-00003\.safetensors.*remove"):
        read_tensors(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    path = sharded / "model-00003-of-00003.safetensors"
    first = next(iter(read_header(sharded / "model-00001-of-00003.safetensors")))
    tensors = load_file(path) | {first: load_file(sharded / "model-00001-of-00003.safetensors")[first] * 2}
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"is in model-00001-of-00003\.safetensors and in model-00003-of-00003\.safetensors"):
        read_tensors(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"is \[1\]; it must be an object"),
        ({}, "has no weight_map"),
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {}}, "empty weight_map"),
        ({"weight_map": {"a": 5}}, r"weight_map\.a is 5"),
        ({"weight_map": {"a": None}}, r"weight_map\.a is null"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "names the file"),
        ({"weight_map": {"a": "/etc/hostname"}}, "names the file"),
        ({"weight_map": {"a": "config.json"}}, r"must be a \.safetensors file"),
        ({"weight_map": {"a": "link.safetensors"}}, "a link out of its folder"),
        ({"weight_map": {"a": "x" * 5000}}, "names the file"),
    ],
)
def test_an_index_is_checked_before_a_file_is_opened(sharded: Path, content: Any, message: str) -> None:
    save_file({"a": np.zeros(1, np.float32)}, sharded.parent / "secret.safetensors")
    (sharded / "link.safetensors").symlink_to("../secret.safetensors")
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{INDEX}.*{message}") as error:
        read_tensors(sharded)
    assert len(str(error.value).replace(str(sharded), "")) < 500


@pytest.mark.parametrize("name", ["weights.safetensors", "consolidated.safetensors"])
def test_weights_under_another_name_get_the_mend(copy: Path, name: str) -> None:
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(UserError, match=rf"{name}.*rename"):
        read_tensors(copy)


def test_pickled_weights_get_the_way_to_convert_them(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*save_pretrained"):
        read_tensors(copy)


def test_a_copy_of_the_embeddings_is_left_out(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, fingerprint = open_checkpoint(copy, load_model_config(copy)), base_fingerprint(copy)
    path = copy / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {EMBEDDING_COPY: tensors[EMBEDDING]}, path)
    assert open_checkpoint(copy, load_model_config(copy)).keys() == before.keys()
    assert f"{EMBEDDING_COPY} is a copy" in capsys.readouterr().err and base_fingerprint(copy) == fingerprint
    save_file(tensors | {EMBEDDING_COPY: tensors[EMBEDDING] * 2}, path)
    with pytest.raises(UserError, match=rf"{EMBEDDING_COPY} is no copy of {EMBEDDING}"):
        open_checkpoint(copy, load_model_config(copy))


def test_a_checkpoint_with_a_copy_of_the_embeddings_loads(backend_name: str, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {EMBEDDING_COPY: tensors[EMBEDDING]}, copy / "model.safetensors")
    load_backend(backend_name, copy)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"source_fingerprint": 5}', '{"source_fingerprint": ""}', "{", "null"])
def test_a_conversion_record_of_another_form_is_refused(copy: Path, text: str) -> None:
    (copy / "conversion.json").write_text(text)
    with pytest.raises(UserError, match=r"conversion\.json"):
        base_fingerprint(copy)


def test_a_name_that_acts_on_a_terminal_is_shown_escaped(copy: Path) -> None:
    path = copy / "model.safetensors"
    save_file(load_file(path) | {"\x1b[2Jgone\n\u202e": np.zeros(1, np.float32)}, path)
    with pytest.raises(UserError, match=r'extra "\\u001b\[2Jgone\\n\\u202e"') as error:
        open_checkpoint(copy, load_model_config(copy))
    assert str(error.value).isprintable()
