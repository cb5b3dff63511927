"""--compile of the commands that answer: the same tokens, and a compilation for each shape of a step, whatever the answers."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from mlx_phi3v import kv_cache
from mlx_phi3v.adapters import AdapterArgs, adapter_shapes
from mlx_phi3v.answer_batch import RowState, answers
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.errors import UserError
from mlx_phi3v.golden.cases import load_cases
from mlx_phi3v.kv_cache import BatchCache
from mlx_phi3v.sampling import Sampling
from tests.helpers.paths import GOLDEN

LENGTHS = (3, 11, 6, 17, 9, 4)  # tokens of prompts


@pytest.fixture(autouse=True)
def compiler(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch the capture is tried; what it builds, which takes a minute, is below (slow). MLX builds C++ on a CPU."""
    if backend_name == "torch":
        from mlx_phi3v.backend_torch import compiled

        monkeypatch.setattr(compiled, "COMPILER", "eager")
    elif on_cpu() and not shutil.which("g++"):
        pytest.skip("MLX needs a C++ compiler on a CPU")


def on_cpu() -> bool:
    """Whether MLX computes on a CPU."""
    from mlx_phi3v.backend_mlx import ops

    return ops.on_cpu()


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns of every compiled step; room is made for 16 tokens at a time."""
    seen: list[tuple[int, int]] = []
    numbers = BatchCache.step_numbers

    def noting(self: BatchCache[Any]) -> np.ndarray:
        seen.append((self.layers[0].places, self.layers[0].columns))
        return numbers(self)

    monkeypatch.setattr(BatchCache, "step_numbers", noting)
    monkeypatch.setattr(kv_cache, "STEP", 16)
    return seen


def texts(backend: Any) -> list[Example]:
    """Prompts of unlike lengths."""
    rng = np.random.default_rng(1)
    return [Example(str(i), rng.integers(3, backend.config.vocab_size, n), np.full(n, -100), ()) for i, n in enumerate(LENGTHS)]


def answered(backend: Any, size: int) -> list[RowState]:
    """Answers of 5 to 9 tokens without a stop, so many at a time, of which every second is drawn."""
    rows = [RowState(text, Sampling(1.0 * (i % 2), 0.8, seed=4), 5 + i % 5) for i, text in enumerate(texts(backend))]
    for _ in answers(backend, rows, (), size):
        pass
    return rows


@pytest.mark.numeric
def test_the_tokens_stay_and_each_shape_is_compiled_once(
    backend_name: str, make_checkpoint: Callable[..., Path], shapes: list[tuple[int, int]]
) -> None:
    """Rows leave and join, texts outgrow their room, and RoPE changes in some."""
    folder = make_checkpoint(original_max=14)
    plain = load_backend(backend_name, folder, dtype="float32")
    expected = answered(plain, 4)
    assert not shapes and plain.compilations == 0
    backend = load_backend(backend_name, folder, dtype="float32", compiled=True)
    for _ in range(2):
        for mine, other in zip(answered(backend, 4), expected, strict=True):
            assert mine.answer.token_ids == other.answer.token_ids
            # fp32 sums of other shapes, in a model of small weights
            np.testing.assert_allclose(mine.answer.logprobs, other.answer.logprobs, atol=1e-4)
    assert backend.compilations == len(set(shapes)) < len(shapes) / 4
    assert len({columns for _, columns in shapes}) > 1 and {1, 4} <= {places for places, _ in shapes} <= {1, 2, 4}


@pytest.mark.numeric
def test_what_stands_in_unused_places_is_not_seen(backend_name: str, checkpoint: Path) -> None:
    """NaN in them, and keys and values that are packed; in place, and with a LoRA adapter."""
    found, wheres = [], []
    for compiled in (False, True):
        backend: Any = load_backend(backend_name, checkpoint, dtype="float32", kv_bits=8, compiled=compiled)
        put_adapter_on(backend)
        _, cache = backend.prefill(collate(texts(backend)[:4], backend.config))
        _, other = backend.prefill(collate(texts(backend)[4:5], backend.config))
        backend.keep_rows(cache, [0, 3, 2])
        spoil(backend_name, cache, 3)
        scores, before = [backend.decode(cache, np.array([5, 6, 7])).numpy()], where(cache)
        backend.join(cache, other)
        scores += [backend.decode(cache, np.array([8, 9, 5, 6]) + i).numpy() for i in range(2)]
        found.append(scores)
        wheres.append((before, where(cache)))
    for mine, other in zip(*found, strict=True):
        # A number of a key that falls half-way between two steps may be stored as either: 1 / 255 of the range of 32 of them.
        np.testing.assert_allclose(mine, other, atol=0.05)
    assert all(before == after for before, after in wheres)


def put_adapter_on(backend: Any) -> None:
    """A LoRA adapter of rank 2 that changes what the language model computes."""
    adapter = AdapterArgs(r=2, lora_alpha=4.0)
    rng = np.random.default_rng(2)
    shapes = adapter_shapes(backend.config, adapter).tensors
    backend.set_adapter(
        adapter, {key: rng.normal(0, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}, trainable=False
    )


def spoil(backend: str, cache: Any, place: int) -> None:
    """Let a row that has left have keys and values that are not finite."""
    with importlib.import_module("torch").inference_mode() if backend == "torch" else nullcontext():
        for layer in cache.layers:
            for array in layer.arrays:
                array[place, :, : layer.end] = 255 if "int" in str(array.dtype) else float("nan")


def torch_backend(folder: Path, **options: Any) -> Any:
    """The model on torch, in fp32."""
    return load_backend("torch", folder, dtype="float32", **options)


def where(cache: Any) -> list[int]:
    """The addresses of its arrays."""
    arrays = [array for layer in cache.layers for array in layer.arrays]
    return [int(np.asarray(array).__array_interface__["data"][0]) for array in arrays]


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_eager_attention_adds_the_mask(checkpoint: Path) -> None:
    found = []
    for compiled in (False, True):
        backend = torch_backend(checkpoint, attn_implementation="eager", compiled=compiled)
        _, cache = backend.prefill(collate(texts(backend)[:2], backend.config))
        found.append(backend.decode(cache, np.array([5, 6])).numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)  # fp32 sums of other shapes


@pytest.mark.parametrize("command", ["generate", "serve", "predict"])
def test_commands_that_answer_pass_the_flag_on(
    command: str, backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noting(*_: Any, **options: Any) -> Any:
        asked.append(options["compiled"])
        raise UserError("loaded")

    package, module, arguments = {
        "generate": ("mlx_phi3v.generate", "mlx_phi3v.question", ["--question", "What?"]),
        "serve": ("mlx_phi3v.serve.__main__", "mlx_phi3v.serve.models", ["--port", "0"]),
        "predict": (
            "eval.predict.__main__",
            "eval.predict.answer_rows",
            ["--data", str(small_catalogue), "--output", str(tmp_path / "run")],
        ),
    }[command]
    monkeypatch.setattr(f"{module}.load_model", noting)
    main = importlib.import_module(package).main
    for flag in ([], ["--compile"]):
        with pytest.raises(UserError, match="loaded"):
            main(["--model", str(checkpoint), "--backend", backend_name, *arguments, *flag])
    assert asked == [False, True]


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_a_run_of_predictions_counts_compilations(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    config = PredictConfig(small_catalogue, tmp_path / "run", str(checkpoint), backend="torch", limit=1, max_new_tokens=3)
    assert "compilations" not in predict(config)
    assert predict(replace(config, output=tmp_path / "compiled", compile=True))["compilations"] == 1
    runs = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "compiled")]
    ids = [json.loads(run.splitlines()[0])["token_ids"] for run in runs]
    assert ids[0] == ids[1] and len(ids[0]) == 3


@pytest.mark.parametrize("backend_name", ["mlx"], indirect=True)
def test_a_cpu_without_a_compiler_is_told(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_phi3v.backend_mlx import compiled

    if not on_cpu():
        pytest.skip("Metal and CUDA need none")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"with g\+\+, and there is none; install it, or leave --compile out"):
        load_backend("mlx", checkpoint, compiled=True)


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_a_failed_build_is_told(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_phi3v.backend_torch import compiled

    def fails(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled.Compiler, "__call__", fails)
    with pytest.raises(UserError, match=r"--compile: torch could not build the step \(.*no compiler here.*\); install what"):
        answered(torch_backend(checkpoint, compiled=True), 2)


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_a_missing_triton_is_told(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA raises it: torch passes this error on as it is."""
    from torch._inductor.exc import TritonMissing

    from mlx_phi3v.backend_torch import compiled

    def fails(*_: Any) -> Any:
        raise TritonMissing(None)

    monkeypatch.setattr(compiled.Compiler, "__call__", fails)
    with pytest.raises(UserError, match=r"--compile: torch could not build the step \(.*triton.*\); install what"):
        answered(torch_backend(checkpoint, compiled=True), 2)


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_a_cuda_graph_finds_the_cache_and_the_weights_where_they_are(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the tokens and their numbers keep their addresses: else a graph copies them at each step, or none is made."""
    from mlx_phi3v.backend_torch import compiled

    fixed: list[tuple[int, int]] = []
    build = compiled.Compiler.__call__

    def noting(self: Any, graph: Any, inputs: Any) -> Any:
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        kept = [(node.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type") is not None for node in places]
        fixed.append((len(kept), sum(kept)))
        return build(self, graph, inputs)

    monkeypatch.setattr(compiled.Compiler, "__call__", noting)
    answered(torch_backend(checkpoint, compiled=True), 2)
    assert fixed and all(inputs > 20 and kept == inputs - 2 for inputs, kept in fixed)


# slow: torch builds C++ for all layers.
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch needs a C++ compiler on a CPU")
@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_the_settings_of_cuda_build_on_a_cpu_too(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that shows without CUDA: torch takes them, and makes no graph."""
    from mlx_phi3v.backend_torch import compiled

    monkeypatch.setattr(compiled, "COMPILER", "inductor")
    backend, plain = (torch_backend(checkpoint, compiled=way) for way in (True, False))
    compiler = backend.compiled_step.compiler
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        compiler.options = compiled.Compiler(graphs=True).options
    assert compiler.options
    tokens = [[row.answer.token_ids for row in answered(each, 6)] for each in (backend, plain)]
    assert tokens[0] == tokens[1]


# slow: torch builds C++ for every layer of two shapes.
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch and MLX need a C++ compiler on a CPU")
def test_the_recorded_answers_are_given_by_what_is_built(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend_name == "torch":
        from mlx_phi3v.backend_torch import compiled

        monkeypatch.setattr(compiled, "COMPILER", "inductor")
    backend = load_backend(backend_name, GOLDEN / "checkpoint", dtype="float32", compiled=True)
    cases = load_cases(GOLDEN)
    rows = [RowState(case.prompt, Sampling(), len(case.case["greedy"])) for case in cases]
    for _ in answers(backend, rows, (), 4):
        pass
    assert {case.name: row.answer.token_ids for case, row in zip(cases, rows)} == {c.name: c.case["greedy"] for c in cases}
    assert 0 < backend.compilations <= 4
