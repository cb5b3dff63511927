"""Each side runs without the other's framework, and what is neutral without either."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

MLX = {"mlx", "mlx_vlm", "mlx_lm"}
TORCH = {"torch", "transformers", "peft", "accelerate"}
# What does the work of one command or another, and takes its time to load.
HEAVY = sorted(
    {"numpy", "scipy", "pandas", "pyarrow", "PIL", "cv2", "rich", "jinja2", "safetensors", "tokenizers", "datasets"}
    | {"huggingface_hub", "httpx", "httpcore", "fastapi", "uvicorn", "sqlite3", "multiprocessing", "asyncio"}
    | MLX | TORCH
)  # fmt: skip
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
COMMANDS = sorted({target.partition(":")[0] for target in SCRIPTS.values()})
NEUTRAL = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("mlx_phi3v", "data", "eval")
    for path in (ROOT / package).rglob("*.py")
    if "backend_" not in str(path) and path.name != "__main__.py"
)

# Loads a model, trains a step on a batch, and answers: all that a command does with a backend.
USE = """
import gc
import sys
from pathlib import Path
from mlx_phi3v.train import TrainConfig, train
from mlx_phi3v.decoding import generate, load_model
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.task import Task
from data.catalogue import Catalogue
backend, model, data, output = sys.argv[1:]
settings = dict(max_steps=1, batch_size=2, r=2, num_crops=1)
train(TrainConfig(data=Path(data), output=Path(output), model=model, backend=backend, **settings))
loaded = load_model(model, backend, output)
maker = ExampleMaker(loaded.prompts, loaded.backend.config, Task(), 1)
question = maker(Catalogue(data).split("test")[0], with_answer=False)
assert len(generate(loaded.backend, [question], max_new_tokens=2, stop_ids=())[0].token_ids) == 2
assert gc.isenabled() and gc.get_freeze_count() > 10_000  # a framework is not searched for garbage again
"""

# The flags of all commands are read in one process, so that what any of them loads is seen. Prints what each added.
FLAGS_ALONE = """
import contextlib, importlib, io, json, sys
from mlx_phi3v.errors import UserError
commands, heavy = (words.split() for words in sys.argv[1:])
found = {}
for name in commands:
    before, shown = set(sys.modules), io.StringIO()
    main = importlib.import_module(name).main
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main(["--help"])
    assert "--config" in shown.getvalue(), name
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(UserError):
        assert main(["--no-such-flag"]) == 2, name  # the status of a command that does not raise it
    found[name] = sorted(set(heavy) & (set(sys.modules) - before))
print(json.dumps(found))
"""


def run_code(code: str, *arguments: object) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def loaded_after(code: str, *arguments: object) -> set[str]:
    """The packages that are in sys.modules after running `code` in a fresh interpreter."""
    code += "\nimport sys\nprint(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    return set(run_code(code, *arguments).split())


def test_neutral_modules_load_neither_framework() -> None:
    assert len(NEUTRAL) > 60 and {"mlx_phi3v.train", "data.sample", "eval.compare", "eval.parity"} <= set(NEUTRAL)
    packages = loaded_after("\n".join(f"import {name}" for name in NEUTRAL))
    assert not packages & (MLX | TORCH) and "numpy" in packages


@pytest.mark.parametrize(("backend", "other"), [("mlx", TORCH), ("torch", MLX)])
def test_a_backend_is_used_without_the_other(
    backend: str, other: set[str], checkpoint: Path, small_catalogue: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    packages = loaded_after(USE, backend, checkpoint, small_catalogue, tmp_path / "run")
    assert backend in packages and not packages & other


def test_conversion_and_fusing_need_no_torch(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx")
    code = """
import sys
from pathlib import Path
from mlx_phi3v.convert import ConvertConfig, convert
convert(ConvertConfig(sys.argv[1], Path(sys.argv[2]), quantize=True, q_group_size=32))
"""
    packages = loaded_after(code, checkpoint, tmp_path / "out")
    assert "mlx" in packages and not packages & TORCH


def test_names_that_users_imported_before_the_move_are_still_there() -> None:
    code = """
from data import describe, ingest, sample
from data.catalogue import Catalogue, CatalogueWriter
from eval import compare, parity, predict
from mlx_phi3v.catalogue import Catalogue as Moved
from mlx_phi3v.generate import chat_prompt
from mlx_phi3v.weights import resolve_model
assert Catalogue is Moved and resolve_model("tiny").is_dir()
assert all(callable(package.main) for package in (describe, ingest, sample, compare, parity, predict))
assert chat_prompt("What is this?", 1).count("<|image_1|>") == 1
"""
    packages = loaded_after(code)
    assert not packages & (MLX | TORCH)


def test_help_and_a_wrong_flag_load_nothing_that_does_the_work() -> None:
    found = json.loads(run_code(FLAGS_ALONE, " ".join(COMMANDS), " ".join(HEAVY)))
    assert set(found) == set(COMMANDS) and len(found) > 20
    assert not {command: loaded for command, loaded in found.items() if loaded}
