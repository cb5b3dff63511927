"""A config is read whole or refused with its key: wrong kinds, sizes nobody can build, and what changes the numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v import rope
from mlx_phi3v.config import ModelArgs, load_model_config
from mlx_phi3v.errors import UserError
from tests.helpers.paths import SHARED


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint's two configurations to damage."""
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(checkpoint / name, tmp_path / name)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def factors(**changes: Any) -> dict[str, Any]:
    return {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8} | changes


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "model type 'llama'"),
    ({"model_type": ["phi3_v"]}, "model type"),
    ({"hidden_size": "64"}, 'hidden_size is "64"'),
    ({"hidden_size": 64.5}, r"hidden_size is 64\.5"),
    ({"hidden_size": [64]}, "hidden_size"),
    ({"vocab_size": True}, "vocab_size is true"),
    ({"vocab_size": -5}, "vocab_size is -5"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be a whole number of at most 1024"),
    ({"hidden_size": 10**12}, "hidden_size"),
    ({"intermediate_size": 10**40}, "intermediate_size"),
    ({"max_position_embeddings": 10**15}, "max_position_embeddings"),
    ({"original_max_position_embeddings": 1}, "original_max_position_embeddings is 1"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
    ({"rope_theta": 0}, "rope_theta is 0"),
    ({"rope_theta": -10000.0}, "rope_theta"),
    ({"rope_theta": "large"}, "rope_theta"),
    ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
    ({"num_attention_heads": 0}, "num_attention_heads"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ({"sliding_window": 512}, "sliding_window is 512; it must not be below max_position_embeddings"),
    ({"quantization_config": {"quant_method": "fp8"}}, 'quantization_config .*"fp8"'),
    ({"rope_scaling": "su"}, 'rope_scaling is "su"'),
    ({"rope_scaling": {"type": "yarn"}}, "\"yarn\" is not 'su'"),
    ({"rope_scaling": {"type": ["su"]}}, "rope_scaling type"),
    ({"rope_scaling": {"type": "su"}}, "short_factor"),
    ({"rope_scaling": factors(short_factor=[1.0], long_factor=[1.0])}, "short_factor must have 8 entries"),
    ({"rope_scaling": factors(long_factor=[1.0] * 7 + [0.0])}, r"rope_scaling\.long_factor\[7\] is 0"),
    ({"rope_scaling": factors(long_factor=[-1.0] * 8)}, r"rope_scaling\.long_factor\[0\] is -1"),
    ({"rope_scaling": factors(long_factor=[1e30] * 8)}, r"rope_scaling\.long_factor"),
    ({"rope_scaling": factors(short_factor="1")}, r"rope_scaling\.short_factor"),
    ({"rope_scaling": factors(short_mscale=1.2)}, r"rope_scaling\.short_mscale is unknown; remove it"),
    ({"rope_scaling": factors(factor=8.0)}, r"rope_scaling\.factor is 8\.0; it must be 4"),
    ({"embd_layer": "mlp"}, "embd_layer"),
    ({"embd_layer": {"hd_transform_order": "other"}}, "hd_transform_order"),
    ({"embd_layer": {"hd_transform_order": 5}}, "hd_transform_order"),
    ({"embd_layer": {"projection_cls": "linear"}}, "projection_cls"),
    ({"embd_layer": {"use_hd_transform": False}}, "HD transform"),
    ({"embd_layer": {"use_hd_transform": "no"}}, "use_hd_transform"),
    ({"img_processor": [1]}, "img_processor"),
    ({"img_processor": {"clip": [1]}}, r"img_processor\.clip"),
    ({"img_processor": {"layer_idx": -1}}, "layer_idx"),
    ({"img_processor": {"clip": {"patch_size": 100}}}, "multiple of patch_size"),
    ({"img_processor": {"clip": {"patch_size": 16}}}, "patch grid must be even"),
    ({"img_processor": {"clip": {"hidden_act": "gelu"}}}, "quick_gelu"),
    ({"img_processor": {"clip": {"num_channels": 4}}}, "num_channels must be 3"),
    ({"img_processor": {"clip": {"num_hidden_layers": 10**7}}}, r"img_processor\.clip\.num_hidden_layers"),
    ({"quantization": "4bit"}, "quantization"),
    ({"quantization": {"bits": 3, "group_size": 64}}, "3 bits"),
    ({"quantization": {"bits": "4", "group_size": 64}}, r"quantization\.bits"),
    ({"quantization": {"group_size": 64}}, "quantization"),
    ({"quantization": {"bits": 4, "group_size": 64, "mode": "mxfp4"}}, "mxfp4"),
    ({"quantization": {"bits": 4, "group_size": 64, "lm_head": False}}, "lm_head"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_config_that_was_never_published_is_refused(copy: Path, changes: dict[str, Any], message: str) -> None:
    edit(copy / "config.json", **changes)
    with pytest.raises(UserError, match=message) as error:
        load_model_config(copy)
    assert "config.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, "many", 0, -1, 1.5, True, 10**12, [4]])
def test_a_number_of_crops_that_is_none_is_refused(copy: Path, value: object) -> None:
    edit(copy / "preprocessor_config.json", num_crops=value)
    with pytest.raises(UserError, match=r"preprocessor_config\.json.*num_crops"):
        load_model_config(copy)


@pytest.mark.parametrize("changes", [{"image_mean": [0.5, 0.5, 0.5]}, {"image_std": [0.5]}, {"image_mean": "CLIP"}])
def test_pictures_normalised_in_another_way_are_refused(copy: Path, changes: dict[str, Any]) -> None:
    edit(copy / "preprocessor_config.json", **changes)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {next(iter(changes))}"):
        load_model_config(copy)


def test_a_folder_in_the_place_of_a_config_is_named(copy: Path) -> None:
    for name in ("preprocessor_config.json", "config.json"):
        (copy / name).unlink()
        (copy / name).mkdir()
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            load_model_config(copy)
        (copy / name).rmdir()


def test_null_sections_of_a_config_mean_their_defaults(copy: Path) -> None:
    edit(copy / "config.json", embd_layer=None, rope_scaling=None, num_key_value_heads=None, img_processor={"clip": None})
    edit(copy / "config.json", hidden_size=3072, num_attention_heads=32)
    config = load_model_config(copy)
    assert config.short_factor is None and config.num_key_value_heads == 32 and config.hd_transform_order == "sub_glb"
    assert config.vision == ModelArgs().vision


def test_quantization_under_both_of_its_names_is_read(copy: Path) -> None:
    packed = {"bits": 4, "group_size": 64, "mode": "affine"}
    edit(copy / "config.json", quantization=packed, quantization_config=packed)
    quantization = load_model_config(copy).quantization
    assert quantization is not None and quantization.bits == 4


def as_rope_parameters(raw: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The config as transformers 5 writes it."""
    raw = dict(raw)
    scaling = raw.pop("rope_scaling")
    entries = {name: scaling[name] for name in ("short_factor", "long_factor")}
    entries |= {"rope_type": "longrope", "rope_theta": raw.pop("rope_theta", 10000.0)} | more
    entries["original_max_position_embeddings"] = raw.pop("original_max_position_embeddings")
    return raw | {"rope_parameters": entries}


def test_rope_parameters_mean_what_rope_scaling_means(copy: Path) -> None:
    before = load_model_config(copy)
    raw = json.loads((copy / "config.json").read_text())
    ratio = before.max_position_embeddings / before.original_max_position_embeddings
    for more in ({}, {"factor": ratio, "partial_rotary_factor": 1.0}, {"attention_factor": rope.attention_scale(before)}):
        (copy / "config.json").write_text(json.dumps(as_rope_parameters(raw, **more)))
        after = load_model_config(copy)
        assert after == before and rope.attention_scale(after) == rope.attention_scale(before) > 1
        np.testing.assert_array_equal(rope.inverse_frequencies(after), rope.inverse_frequencies(before))


def test_plain_rope_parameters_are_plain_rope(copy: Path) -> None:
    before = load_model_config(copy)
    edit(copy / "config.json", rope_scaling=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert load_model_config(copy) == replace(before, short_factor=None, long_factor=None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rope_type": "yarn"}, "rope_parameters type"),
        ({"rope_theta": 0.0}, r"rope_parameters\.rope_theta"),
        ({"attention_factor": 1.0}, r"rope_parameters\.attention_factor is 1\.0"),
        ({"factor": 2.0}, r"rope_parameters\.factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"short_mscale": 1.1}, "short_mscale"),
    ],
)
def test_rope_parameters_that_mean_other_numbers_are_refused(copy: Path, more: dict[str, Any], message: str) -> None:
    raw = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(as_rope_parameters(raw, **more)))
    with pytest.raises(UserError, match=rf"config\.json.*{message}"):
        load_model_config(copy)


def test_rope_entries_that_contradict_each_other_are_refused(copy: Path) -> None:
    raw = json.loads((copy / "config.json").read_text())
    both = raw | as_rope_parameters(raw)
    (copy / "config.json").write_text(json.dumps(both))
    load_model_config(copy)  # alike
    both["rope_parameters"]["long_factor"] = [3.0] * 8
    (copy / "config.json").write_text(json.dumps(both))
    with pytest.raises(UserError, match="rope_parameters has another long_factor"):
        load_model_config(copy)
    (copy / "config.json").write_text(json.dumps(as_rope_parameters(raw) | {"rope_theta": 500.0}))
    with pytest.raises(UserError, match="rope_parameters has another rope_theta"):
        load_model_config(copy)


@pytest.mark.parametrize("name", ["phi-3-vision", "phi-3.5-vision"])
def test_the_published_configs_are_read(name: str) -> None:
    if not (SHARED / "phi3v").is_dir():
        pytest.skip(f"the published configs are not at {SHARED / 'phi3v'}")
    config = load_model_config(SHARED / "phi3v" / name)
    assert config.long_factor is not None and rope.attention_scale(config) == pytest.approx(1.1902, abs=1e-4)


KEYS = ["hidden_size", "num_hidden_layers", "rope_theta", "rope_scaling", "rope_parameters", "embd_layer", "img_processor",
        "quantization", "tie_word_embeddings", "num_key_value_heads"]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["su", "default", "mlp", "x"])
NAMES = st.sampled_from(["type", "rope_type", "short_factor", "clip", "bits", "hidden_size", "x"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


@settings(max_examples=300)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2))
def test_any_config_is_read_or_refused_in_one_sentence(checkpoint: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    raw = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | changes))
    try:
        config = load_model_config(tmp_path)
    except UserError as error:
        assert "config.json" in str(error) and len(str(error).replace(str(tmp_path), "")) < 600
    else:
        assert np.isfinite(rope.inverse_frequencies(config)).all() and np.isfinite(rope.attention_scale(config))
