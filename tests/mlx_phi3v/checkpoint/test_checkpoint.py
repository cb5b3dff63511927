"""A checkpoint is checked whole before a byte of it is read, and every fault is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.headers import check_tensors, open_checkpoint, read_header, read_tensors
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import CLIP, expected_tensors, is_quantized
from mlx_phi3v.config import ModelArgs, load_model_config
from mlx_phi3v.errors import UserError
from tests.helpers.paths import SHARED

REAL = SHARED / "phi3v"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_the_published_config_asks_for_the_published_tensors() -> None:
    if not REAL.is_dir():
        pytest.skip(f"the published configs are not at {REAL}")
    config = load_model_config(REAL / "phi-3-vision")
    shapes = expected_tensors(config)
    index = json.loads((REAL / "phi-3-vision" / "model.safetensors.index.json").read_text())
    assert shapes.keys() == index["weight_map"].keys() and len(shapes) == 592
    assert 2 * sum(int(np.prod(shape)) for shape in shapes.values()) == index["metadata"]["total_size"] == 8_293_242_880
    assert config.num_crops == 16 and load_model_config(REAL / "phi-3.5-vision").num_crops == 4
    assert config.short_factor != load_model_config(REAL / "phi-3.5-vision").short_factor


def test_defaults_are_those_of_the_published_config() -> None:
    assert sum(is_quantized(name) for name in expected_tensors(ModelArgs())) == 4 * 32
    assert len(expected_tensors(ModelArgs())) == 592


@pytest.mark.parametrize("shards", [1, 3])
def test_all_tensors_are_found_across_shards(make_checkpoint: Callable[..., Path], shards: int) -> None:
    folder = make_checkpoint(shards=shards)
    config = load_model_config(folder)
    tensors = open_checkpoint(folder, config)
    assert tensors.keys() == expected_tensors(config).keys()
    assert len({info.file for info in tensors.values()}) == shards
    for name, info in list(tensors.items())[::7]:
        raw = info.file.read_bytes()[info.start : info.start + info.size]
        np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(info.shape), load_file(info.file)[name])


def test_every_missing_extra_and_misshapen_tensor_is_in_one_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"], tensors["model.layers.1.mlp.down_proj.weight"]
    tensors |= {"model.extra": np.zeros(3, np.float32), "model.norm.weight": np.zeros(5, np.float32)}
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        open_checkpoint(copy, load_model_config(copy))
    text = str(error.value)
    assert "4 tensor(s) do not fit config.json" in text and str(copy) in text and "\n" not in text
    for part in ("missing lm_head.weight", "missing model.layers.1.mlp.down_proj.weight", "extra model.extra"):
        assert part in text
    assert "model.norm.weight is [5], config.json asks for [64]" in text


def test_tensors_the_model_never_reads_may_be_more(copy: Path) -> None:
    path = copy / "model.safetensors"
    extra = {CLIP + "embeddings.position_ids": np.arange(17)[None]}
    save_file(load_file(path) | extra, path)
    opened = open_checkpoint(copy, load_model_config(copy))
    assert expected_tensors(load_model_config(copy)).keys() <= opened.keys()


@pytest.mark.parametrize("keep", [0, 4, 100, -1000, -1])
def test_a_cut_file_is_named_however_short(copy: Path, keep: int) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is (truncated|corrupt or not a safetensors file)"):
        read_tensors(copy)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>" * 20,
        (2).to_bytes(8, "little") + b"[]",
        (8).to_bytes(8, "little") + b'{"a": 1}',
        (17).to_bytes(8, "little") + b'{"a": {"dtype":1}}',
        (60).to_bytes(8, "little") + b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,"8"]}}    ',
        (58).to_bytes(8, "little") + b'{"a": {"dtype":"F32","shape":[9],"data_offsets":[0,8]}}   ' + bytes(8),
    ],
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_header(tmp_path / "x.safetensors")


def test_a_missing_shard_is_named(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "copy"))
    (copy / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"copy lacks model-00002-of-00003\.safetensors"):
        read_tensors(copy)


def test_a_tensor_missing_from_its_shard_is_named(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(make_checkpoint(shards=3), tmp_path / "copy"))
    index = copy / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    content["weight_map"]["lm_head.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"(lm_head|model\.norm)\.weight.* are in .*index\.json but not in their shard"):
        read_tensors(copy)


def test_the_last_vision_layer_must_be_there_but_is_not_read(checkpoint: Path) -> None:
    config = load_model_config(checkpoint)
    tensors = read_tensors(checkpoint)
    del tensors[CLIP + "post_layernorm.weight"]
    with pytest.raises(UserError, match=r"missing .*post_layernorm"):
        check_tensors(tensors, config, checkpoint)


def test_a_fingerprint_tells_checkpoints_apart(make_checkpoint: Callable[..., Path], copy: Path) -> None:
    same = base_fingerprint(copy)
    assert same == base_fingerprint(make_checkpoint()) and same != base_fingerprint(make_checkpoint(seed=1))
    (copy / "conversion.json").write_text(json.dumps({"source_fingerprint": "abc"}))
    assert base_fingerprint(copy) == "abc"
    (copy / "conversion.json").write_text("{}")
    with pytest.raises(UserError, match=r"conversion\.json"):
        base_fingerprint(copy)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model_config(tmp_path)
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        read_tensors(tmp_path)
    with pytest.raises(UserError, match=r"--model .*nowhere is not a folder"):
        resolve_model(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--model .*file is not a folder"):
        resolve_model(str(tmp_path / "file"))


def test_a_hub_id_without_network_is_one_sentence() -> None:
    with pytest.raises(
        UserError, match="--model nobody/nothing: there is no such folder, and the download from the hub failed"
    ):
        resolve_model("nobody/nothing")
