"""A model or adapter that is given one level off, or as the other of the two, is found or named."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mlx_phi3v.adapter_files import resolve_adapter
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapters.safetensors", "adapter_config.json"])
def test_a_file_of_an_adapter_is_its_folder(name: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    (folder / name).touch()
    assert resolve_adapter(folder / name) == folder


def test_checkpoints_below_are_named_the_last_one_last(tmp_path: Path) -> None:
    for step in (1000, 200, 900):
        adapter(tmp_path / f"checkpoint-{step}")
    with pytest.raises(UserError, match=r"one of the 3 below it: .*-200, .*-900, .*-1000$"):
        resolve_adapter(tmp_path)


def test_the_only_adapter_below_is_named(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "default")
    with pytest.raises(UserError, match=f"give {re.escape(str(folder))}$"):
        resolve_adapter(tmp_path)


def test_a_model_given_as_adapter_and_an_adapter_given_as_model_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is a model, which is for --model"):
        resolve_adapter(resolve_model("tiny"))
    with pytest.raises(UserError, match=r"it is an adapter, which is for --adapter"):
        load_model_config(adapter(tmp_path / "a"))


@pytest.mark.parametrize("inside", ["snapshots/0123abc", "microsoft/Phi-3.5-vision-instruct-bf16"])
def test_a_cache_and_a_folder_of_models_name_the_model_inside(inside: str, tmp_path: Path) -> None:
    (tmp_path / inside).mkdir(parents=True)
    shutil.copy(resolve_model("tiny") / "config.json", tmp_path / inside)
    with pytest.raises(UserError, match=f"give {re.escape(str(tmp_path / inside))}$"):
        load_model_config(tmp_path)


def test_a_file_of_a_model_names_its_folder(tmp_path: Path) -> None:
    folder = resolve_model("tiny")
    with pytest.raises(UserError, match=f"is not a folder; give its folder {re.escape(str(folder))}$"):
        resolve_model(str(folder / "model.safetensors"))


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "phi-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"GGUF is llama\.cpp's form"):
        load_model_config(tmp_path)
    with pytest.raises(UserError, match=r"GGUF is llama\.cpp's form"):
        resolve_model(str(tmp_path / "phi-Q4_K_M.gguf"))


def test_nothing_near_leaves_the_plain_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json; give one that has$"):
        load_model_config(tmp_path)
    with pytest.raises(UserError, match=r"give a folder with one$"):
        resolve_adapter(tmp_path)
