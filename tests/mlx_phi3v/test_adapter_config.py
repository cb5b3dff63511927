"""A PEFT configuration is applied as peft applies it, or refused with the key that is not understood."""

from __future__ import annotations

import json
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

from mlx_phi3v import name_patterns
from mlx_phi3v.adapter_config import read_adapter_config
from mlx_phi3v.adapters import (
    CONFIG_FILE,
    LANGUAGE,
    PREFIX,
    WEIGHTS_FILE,
    AdapterArgs,
    adapter_shapes,
    init_adapter,
    load_adapter,
    save_adapter,
)
from mlx_phi3v.backend import Backend
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError

ADAPTER = AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE)


def write(folder: Path, base: Path, adapter: AdapterArgs = ADAPTER) -> Path:
    save_adapter(folder, adapter, init_adapter(load_model_config(base), adapter, seed=0), "")
    return folder


@pytest.fixture
def saved(checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter of the language model."""
    return write(tmp_path / "adapter", checkpoint)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


WRONG_KINDS: dict[str, list[Any]] = {
    "r": ["x", None, 2.7, 0, -1, True, [2], 10**9, 10**300],
    "lora_alpha": [None, "16", [16], True, 1e300, 10**300, 0, -16],
    "lora_dropout": ["x", 1.0, -0.1, [0]],
    "target_modules": [5, {"a": 1}, [5], [["qkv_proj"]], "(", "(" * 200, "a" * 20_000, "a{99999999999}"],
    "exclude_modules": [5, [5], "(", "*"],
    "modules_to_save": [5, "lm_head", [5], {"lm_head": 1}, ["nowhere"], ["lm_head", "head"]],
    "layers_to_transform": ["0", [-1], [0.5], 10**9, {}],
    "layers_pattern": [5, [5], "(.*)*x", ["layers", "a.b"]],
    "use_rslora": ["yes", 1, []],
    "rank_pattern": [5, ["qkv_proj"], {"qkv_proj": "8"}, {"qkv_proj": 0}, {"qkv_proj": 2.5}, {"(": 2}, {"(.*)*x": 2}],
    "alpha_pattern": [5, {"qkv_proj": "8"}, {"qkv_proj": 1e300}, {"(": 8}],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica", 5],
}
WRONG: list[tuple[str, Any]] = [
    *((key, value) for key, values in WRONG_KINDS.items() for value in values),
    ("base_model_name_or_path", 5),
    ("bias", "all"),
    ("use_dora", True),
    ("fan_in_fan_out", True),
    ("lora_bias", True),
    ("layer_replication", [[0, 1]]),
    ("target_parameters", ["x"]),
    ("trainable_token_indices", [1]),
    ("alora_invocation_tokens", [5, 6]),
    ("use_qalora", True),
    ("use_bdlora", {"nblocks": 2}),
    *((f"{kind}_config", {"a": 1}) for kind in ("kasa", "velora", "monteclora", "arrow", "megatron")),
    ("something_of_next_year", True),
    ("peft_type", "IA3"),
    ("peft_type", ["LORA"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_an_entry_that_is_wrong_or_not_understood_is_refused_by_name(
    saved: Path, checkpoint: Path, key: str, value: Any
) -> None:
    edit(saved, **{key: value})
    with pytest.raises(UserError, match=rf"adapter_config\.json.*{key}") as error:
        load_adapter(saved, load_model_config(checkpoint), "")
    assert "\n" not in str(error.value) and len(str(error.value).replace(str(saved), "")) < 500


@pytest.mark.parametrize(
    "text", ['{"r": 1e400}', '{"r": NaN, "lora_alpha": 1}', "[]", "null", "{", '{"r": 2, "r": 4}', "[" * 99_999]
)
def test_a_configuration_that_is_no_json_object_is_refused(saved: Path, text: str) -> None:
    (saved / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        read_adapter_config(saved)


def test_entries_that_are_not_in_use_are_passed_over(saved: Path) -> None:
    before = read_adapter_config(saved)
    unused: dict[str, Any] = {
        "use_dora": False,
        "kasa_config": None,
        "rank_pattern": {},
        "alora_invocation_tokens": [],
        "next_year": False,
    }
    known = {"peft_version": "0.21.2", "megatron_core": "megatron.core", "qalora_group_size": 16, "task_type": "CAUSAL_LM",
             "auto_mapping": {"base_model_class": "x"}, "inference_mode": False, "init_lora_weights": "gaussian"}  # fmt: skip
    edit(saved, **unused, **known)
    assert read_adapter_config(saved) == before


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["qkv_proj", ".*_proj", "(", "x"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
KEYS = st.sampled_from(sorted({key for key, _ in WRONG} - {"target_modules", "exclude_modules"}))


@settings(max_examples=300)
@given(changes=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_any_configuration_is_read_or_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    raw = {"r": 2, "lora_alpha": 4, "target_modules": list(LANGUAGE)}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(raw | changes))
    try:
        adapter = read_adapter_config(tmp_path)
    except UserError as error:
        assert "adapter_config.json" in str(error) and len(str(error).replace(str(tmp_path), "")) < 500
    else:
        assert np.isfinite(adapter.scale) and isinstance(adapter.r, int)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
@pytest.mark.parametrize("pattern", ["(.*)*(.*)*(.*)*x$", "(a|a|.)*(b|b|.)*(c|.)*(.|.)*x$", "(?:.+)+(?:.+)+@"])
def test_an_expression_that_would_match_for_hours_is_stopped(
    saved: Path, checkpoint: Path, key: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_patterns, "SECONDS", 0.5)
    name_patterns.fully_matching.cache_clear()
    edit(saved, **{key: pattern})
    with pytest.raises(UserError, match=rf"adapter_config\.json: {key} is .* too long to match"):
        load_adapter(saved, load_model_config(checkpoint), "")


def test_an_expression_matches_whole_names() -> None:
    names = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head")
    assert name_patterns.fully_matching(r".*layers\.1\..*", names, "key") == {names[1]}
    assert name_patterns.fully_matching("lm_head|down_proj", names, "key") == {"lm_head"}


# What peft makes of these, per its `check_target_module_exists`, on the torch model.
CHOICES: list[dict[str, Any]] = [
    {"layers_to_transform": [0]},
    {"layers_to_transform": 1, "layers_pattern": "layers"},
    {"layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
    {"exclude_modules": ["down_proj"]},
    {"exclude_modules": r".*layers\.0\..*"},
    {"target_modules": r".*layers\.\d+\.mlp\.\w+_proj", "exclude_modules": r".*gate_up_proj"},
    {"target_modules": ["q_proj", "model.layers.0.mlp.down_proj"], "layers_to_transform": [1]},
    {"target_modules": "All-Linear", "exclude_modules": ["fc1"]},
    {"modules_to_save": ["lm_head"], "target_modules": ["lm_head", "o_proj"]},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice))
def test_an_adapter_of_some_layers_loads_as_peft_made_it(
    load: Callable[[Path], Backend], checkpoint: Path, tmp_path: Path, choice: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model

    from mlx_phi3v.backend_torch.loading import load as load_torch

    made = get_peft_model(
        load_torch(checkpoint, dtype="float32").model, LoraConfig(r=2, **{"target_modules": list(LANGUAGE)} | choice)
    )
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(str(tmp_path))
    backend = load(checkpoint)
    adapter, tensors = load_adapter(tmp_path, backend.config, "any")
    backend.set_adapter(adapter, tensors, trainable=False)
    held = backend.adapter_tensors()
    assert held.keys() == tensors.keys() == adapter_shapes(backend.config, adapter).tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(held[key], value)
    save_adapter(tmp_path / "again", adapter, tensors, "")
    assert load_adapter(tmp_path / "again", backend.config, "any")[0] == adapter


def test_embeddings_saved_beside_lora_are_taken_over(load: Callable[[Path], Backend], saved: Path, checkpoint: Path) -> None:
    random = np.random.default_rng(0)
    config = load_model_config(checkpoint)
    whole = {
        f"{PREFIX}{name}.weight": random.standard_normal((config.vocab_size, config.hidden_size)).astype(np.float32)
        for name in ("model.embed_tokens", "lm_head")
    }
    save_file(load_file(saved / WEIGHTS_FILE) | whole, saved / WEIGHTS_FILE)
    backend = load(checkpoint)
    adapter, tensors = load_adapter(saved, config, "")
    assert adapter == replace(
        ADAPTER, target_modules=tuple(sorted(LANGUAGE)), modules_to_save=("model.embed_tokens", "lm_head")
    )
    backend.set_adapter(adapter, tensors, trainable=False)
    held = backend.adapter_tensors()
    for key, value in whole.items():
        np.testing.assert_array_equal(held[key], value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(saved: Path, checkpoint: Path, value: float) -> None:
    tensors = load_file(saved / WEIGHTS_FILE)
    name = sorted(tensors)[2]
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][0, 0] = value
    save_file(tensors, saved / WEIGHTS_FILE)
    with pytest.raises(UserError, match=rf"{WEIGHTS_FILE}: {name} holds NaN or infinite numbers"):
        load_adapter(saved, load_model_config(checkpoint), "")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.bool_])
def test_an_adapter_without_floats_is_refused(saved: Path, checkpoint: Path, dtype: type[np.generic]) -> None:
    tensors = {name: value.astype(dtype) for name, value in load_file(saved / WEIGHTS_FILE).items()}
    save_file(tensors, saved / WEIGHTS_FILE)
    with pytest.raises(UserError, match=rf"{WEIGHTS_FILE}: .* is of dtype"):
        load_adapter(saved, load_model_config(checkpoint), "")


def test_a_pickled_adapter_gets_the_way_to_convert_it(saved: Path, checkpoint: Path) -> None:
    (saved / WEIGHTS_FILE).rename(saved / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is pickled.*save_pretrained"):
        load_adapter(saved, load_model_config(checkpoint), "")
    (saved / WEIGHTS_FILE).mkdir()
    with pytest.raises(UserError, match=rf"{WEIGHTS_FILE} is no file"):
        load_adapter(saved, load_model_config(checkpoint), "")


@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "projector.safetensors", "mm_projector.bin", "embeddings.pt"])
def test_weights_trained_beside_an_adapter_are_not_left_out_in_silence(saved: Path, checkpoint: Path, name: str) -> None:
    (saved / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name} lies beside the adapter"):
        load_adapter(saved, load_model_config(checkpoint), "")


def test_a_trainers_own_files_beside_an_adapter_are_passed_over(saved: Path, checkpoint: Path) -> None:
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        "training_args.bin",
        "adapter_model_old.safetensors",
        "model.safetensors",
    ):
        (saved / name).write_bytes(b"")
    shutil.copyfile(checkpoint / "config.json", saved / "config.json")
    load_adapter(saved, load_model_config(checkpoint), "")
