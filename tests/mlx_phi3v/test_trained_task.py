"""An adapter carries the task, the crops and the dtype it was trained with, into answers and into a fused model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_phi3v import fuse as fuse_command
from mlx_phi3v import generate as generate_command
from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.decoding import load_model
from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import Photo
from mlx_phi3v.question import make_question
from mlx_phi3v.settings import GenerateConfig
from mlx_phi3v.task import Field, Task, chat_prompt
from mlx_phi3v.trained_task import TASK_FILE, TrainedTask
from tests.helpers.catalogue import random_picture

SHOES = Task(
    (Field("brand", "text"), Field("size", "number")), chat_prompt("Which shoe is this?", 1), "Brand: {brand}, Size: {size}"
)
TRAINED = TrainedTask(SHOES, 2, "float32")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of the tiny model that carries another task and another number of crops than the model's own."""
    base, config = resolve_model("tiny"), AdapterArgs(r=2, target_modules=LANGUAGE)
    tensors = {key: value + 0.01 for key, value in init_adapter(load_model_config(base), config, seed=0).items()}
    save_adapter(tmp_path / "adapter", config, tensors, base_fingerprint(base))
    TRAINED.save(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Wide enough to be cut into two crops."""
    random_picture(400, 200, seed=5).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def ask(capsys: pytest.CaptureFixture[str], backend: str, photo: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """(the JSON line, the text on stderr) of mlx_phi3v.generate."""
    arguments = ["--backend", backend, "--image", str(photo), "--max-new-tokens", "2", "--json", *flags]
    assert generate_command.main(arguments) == 0
    output = capsys.readouterr()
    return json.loads(output.out.strip().splitlines()[-1]), output.err


def test_a_task_reads_back_as_it_was_written(tmp_path: Path) -> None:
    TRAINED.save(tmp_path)
    assert TrainedTask.load(tmp_path) == TRAINED
    assert TrainedTask.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"task": {}, "num_crops": 0, "dtype": "float32"}', '{"task": 3, "num_crops": 1, "dtype": "float32"}',
     '{"task": {"fields": [{"name": "a", "kind": "colour"}]}, "num_crops": 1, "dtype": "float32"}', "{",
     '{"task": {}, "num_crops": 1, "dtype": "int4"}', '{"task": {"template": ""}, "num_crops": 1, "dtype": "float32"}',
     '{"task": {"fields": [{"name": "a\\u001b", "kind": "text"}]}, "num_crops": 1, "dtype": "float32"}'],
)  # fmt: skip
def test_a_wrong_task_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / TASK_FILE).write_text(text)
    with pytest.raises(UserError):
        TrainedTask.load(tmp_path)


def test_an_adapter_is_asked_its_own_question(
    backend_name: str, adapter: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, notes = ask(capsys, backend_name, photo, "--adapter", str(adapter))
    assert set(found["fields"]) == {"brand", "size"} and found["num_crops"] == 2 and notes == ""
    own = load_model("tiny", backend_name, adapter)
    question = make_question(GenerateConfig(image=(str(photo),)), own, [Photo.read(photo)])
    assert question.images[0].grid == (1, 2)
    assert "Which shoe is this?" in own.prompts.decode([i for i in question.input_ids.tolist() if i >= 0])


def test_a_differing_flag_is_reported_in_one_line(
    backend_name: str, adapter: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, notes = ask(capsys, backend_name, photo, "--adapter", str(adapter), "--num-crops", "1")
    assert found["num_crops"] == 1
    assert notes == f"note: --num-crops is 1; {adapter} was trained with 2\n"


def test_an_adapter_of_another_tool_gets_the_default_task(
    backend_name: str, adapter: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / TASK_FILE).unlink()
    found, notes = ask(capsys, backend_name, photo, "--adapter", str(adapter))
    assert set(found["fields"]) == {"title", "category3_code", "full_price"}
    assert notes.startswith(f"note: {adapter} has no task.json") and notes.count("\n") == 1


def test_a_fused_model_keeps_the_task_of_its_adapter(
    adapter: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlx")
    assert fuse_command.main(["--adapter", str(adapter), "--save-path", str(tmp_path / "fused")]) == 0
    assert TrainedTask.load(tmp_path / "fused") == TRAINED
    capsys.readouterr()
    found, notes = ask(capsys, "mlx", photo, "--model", str(tmp_path / "fused"))
    assert set(found["fields"]) == {"brand", "size"} and found["num_crops"] == 2 and notes == ""
    # Fused again with an adapter without a task, the new model has none either.
    base = tmp_path / "fused"
    config = AdapterArgs(r=2, target_modules=LANGUAGE)
    save_adapter(tmp_path / "second", config, init_adapter(load_model_config(base), config, 1), base_fingerprint(base))
    flags = ["--model", str(base), "--adapter", str(tmp_path / "second"), "--save-path", str(tmp_path / "twice")]
    assert fuse_command.main(flags) == 0
    assert TrainedTask.load(tmp_path / "twice") is None
