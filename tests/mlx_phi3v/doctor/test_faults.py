"""A fault planted in a kernel or a stage is found, and named: the kernel itself, or the first stage that it makes wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlx_phi3v import rope
from mlx_phi3v.doctor import __main__ as doctor
from mlx_phi3v.doctor import report
from mlx_phi3v.doctor.examine import Examination, first_to_part
from mlx_phi3v.doctor.kernels import check_kernels

pytestmark = pytest.mark.numeric
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def examination() -> Examination:
    """Its plain models and their traces are made once."""
    return Examination()


def need_cpu() -> None:
    """Skip where MLX computes on a GPU: the kernels of ours that are made wrong are for a CPU only."""
    mx = pytest.importorskip("mlx.core")
    if mx.default_device() != mx.cpu:
        pytest.skip("used on a CPU only")


def wrong_kernels(backend: str, *methods: str) -> set[str]:
    """The kernels that fail; of these methods alone, as each takes its time."""
    kernels = importlib.import_module(f"mlx_phi3v.backend_{backend}.kernels").kernels()
    checks = check_kernels(backend, kernels, methods)
    assert checks
    return {check.stage for check in checks if not check.passed}


def replaced(module: str, name: str, change: Callable[[Any], Any]) -> Plant:
    """Puts `change(what is there)` into a module of the MLX backend."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        found = importlib.import_module(f"mlx_phi3v.backend_mlx.{module}")
        monkeypatch.setattr(found, name, change(getattr(found, name)))

    return plant


def without_scale(attention: Any) -> Any:
    return lambda q, k, v, scale, **how: attention(q, k, v, 1.0, **how)


def not_causal(attention: Any) -> Any:
    return lambda q, k, v, scale, *, causal: attention(q, k, v, scale, causal=False)


def without_a_chunk(in_rows: Any) -> Any:
    """The second chunk of rows is left out."""

    def lacking(work: Any, rows: int, width: int) -> None:
        first = []

        def once(some: slice) -> None:
            first.append(some.start)
            if len(first) != 2:
                work(some)

        in_rows(once, rows, width)

    return lacking


def one_group_shifted(product: Any) -> Any:
    """The second group of columns is read with the scale of the first."""

    def shift(w: Any, scales: Any) -> Any:
        import mlx.core as mx

        return mx.concatenate([scales[:, :1], scales[:, :1], scales[:, 2:]], axis=1)

    def wrong(self: Any, x: Any) -> Any:
        before = self.scales
        self.scales = shift(self.weight, before)
        try:
            return product(self, x)
        finally:
            self.scales = before

    return wrong


# fault -> (how it is planted, the method that is checked, the kernel that is named)
KERNEL_FAULTS: dict[str, tuple[Plant, str, str]] = {
    "a chunk of rows left out": (replaced("cpu.activations", "in_rows", without_a_chunk), "swiglu", "swiglu"),
    "sigmoid off by 1e-4": (
        replaced("cpu.activations", "_sigmoid", lambda sigmoid: lambda x, *factor: sigmoid(x, *factor) * np.float32(1.0001)),
        "swiglu", "quick_gelu"),
    "sigmoid of minus x": (
        replaced("cpu.activations", "_sigmoid", lambda sigmoid: lambda x, *factor: 1 - sigmoid(x, *factor)),
        "swiglu", "swiglu"),
    "quick-GELU with GELU's constant": (replaced("cpu.activations", "QUICK", lambda _: 1.6), "swiglu", "quick_gelu"),
    "layer norm without its mean": (
        replaced("cpu.norms", "_means", lambda means: lambda x: 0 * means(x)), "layer_norm", "layer norm"),
    "layer norm in a narrow dtype": (
        replaced("cpu.norms", "_means", lambda means: lambda x: means(x).astype(np.float16)), "layer_norm", "layer norm"),
    "RMS norm with twice the square": (
        replaced("cpu.norms", "_dots", lambda dots: lambda a, b: 2 * dots(a, b)), "rms_norm", "RMS norm"),
    "a chunk of a residual sum left out": (replaced("cpu.residual", "in_rows", without_a_chunk), "residual", "residual sum"),
    "LoRA scaled twice": (
        replaced("lora", "lora_linear", lambda lora: lambda *of, **named: lora(*of[:4], 2 * of[4], *of[5:], **named)),
        "lora", "LoRA"),
    "rotation the wrong way": (
        replaced("cpu.rotary", "_rotate", lambda rotate: lambda x, cos, sin, *, back: rotate(x, cos, sin, back=not back)),
        "rotate", "rotation"),
    "attention without its scale": (replaced("cpu.attention", "attention", without_scale), "attention", "attention"),
    "attention that sees the future": (replaced("cpu.attention", "attention", not_causal), "attention", "attention"),
    "blocks that see one key too many": (
        replaced("cpu.attention", "_hidden", lambda hidden: lambda size: np.triu(hidden(size), 2)), "attention", "attention"),
    "a gradient that forgets the sum of exponentials": (
        replaced("cpu.attention", "_backward", lambda backward: lambda *given: backward(*given[:5], 0 * given[5], *given[6:])),
        "attention", "attention, gradient"),
    "the choice of tokens off by one": (
        replaced("next_tokens", "likeliest", lambda f: lambda x, k: (f(x, k)[0] + 1,)), "likeliest", "choice of tokens"),
    "a nucleus without its least likely tokens": (
        replaced("next_tokens", "_least_in_nucleus", lambda f: lambda weights, top_p: f(weights, top_p - 0.05)),
        "draw", "drawing of tokens"),
    "running sums that begin with the second": (
        replaced("next_tokens", "_place", lambda f: lambda weights, number: f(weights[:, 1:], number)),
        "draw", "drawing of tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNEL_FAULTS)
def test_a_fault_in_a_kernel_is_found_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need_cpu()
    plant, method, kernel = KERNEL_FAULTS[name]
    plant(monkeypatch)
    assert kernel in wrong_kernels("mlx", method)


def packed_with(method: Any) -> Plant:
    """Changes how a packed layer computes on a CPU."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        from mlx_phi3v.backend_mlx.cpu.quantized import CPUQuantizedLinear

        monkeypatch.setattr(CPUQuantizedLinear, "__call__", method(CPUQuantizedLinear.__call__))

    return plant


def test_a_packed_product_with_one_group_shifted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    need_cpu()
    packed_with(one_group_shifted)(monkeypatch)
    assert wrong_kernels("mlx", "packed_product") == {"packed product", "packed product, gradient"}


def test_attention_that_torch_gets_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    attention = torch.nn.functional.scaled_dot_product_attention

    def rough(q: Any, k: Any, v: Any, **options: Any) -> Any:
        return attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), **options).to(q.dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", rough)
    assert wrong_kernels("torch", "attention") == {"attention", "attention, gradient"}


def test_packed_words_read_from_the_high_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from mlx_phi3v.backend_torch import quantized

    dequantize = quantized.dequantize
    monkeypatch.setattr(quantized, "dequantize", lambda packed, *rest: dequantize(packed.view(torch.int32).flip(-1), *rest))
    assert wrong_kernels("torch", "unpack") == {"unpacking"}


def first_stage(examination: Examination, backend: str, weights: str = "float32") -> str:
    """The first stage of one backend that parts from the plain model."""
    return first_to_part(examination.stages(backend, weights)).get(backend, "").partition(" (")[0]


@pytest.mark.parametrize("weights", ["bfloat16", "4 bit"])
def test_sound_stages_pass_on_both_backends(weights: str, backend_name: str, examination: Examination) -> None:
    assert first_stage(examination, backend_name, weights) == ""


def short_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rope, "uses_long_factor", lambda config, length: length < 0)


def angles_without_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rope, "attention_scale", lambda config: 1.0)


@pytest.mark.parametrize("plant", [short_for_long, angles_without_scale])
def test_wrong_rope_is_named_on_both_backends(
    plant: Plant, backend_name: str, examination: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert first_stage(examination, backend_name) == "RoPE"


def other_neighbours(self: Any, features: Any) -> Any:
    """The 2x2 merge with rows and columns of the grid in the wrong order."""
    return features.reshape(-1, 4 * features.shape[-1])


def quick_gelu(self: Any, features: Any) -> Any:
    import mlx.nn as nn

    first, _, last = self.img_projection
    return last(nn.gelu_fast_approx(first(features)))


@pytest.mark.parametrize(
    ("module", "cls", "method", "wrong", "stage"),
    [
        ("vision", "PatchEmbedding", "__call__", lambda self, x: self.patches(x.swapaxes(2, 3)), "tower, patches"),
        ("vision", "VisionMLP", "__call__", lambda self, x: self.fc2(self.fc1(x)), "tower layer 0"),
        ("model", "ImageEmbedding", "merge", other_neighbours, "merge"),
        ("model", "ImageEmbedding", "project", quick_gelu, "projector"),
        ("model", "Phi3VModel", "embed", lambda self, ids, index, table: self.embed_tokens(abs(ids)), "embeddings"),
        ("decoder", "MLP", "__call__", lambda self, x: self.down_proj(self.gate_up_proj(x)[..., 192:]), "decoder layer 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_stage_that_parts_is_named(
    module: str, cls: str, method: str, wrong: Any, stage: str, examination: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlx")
    owner = getattr(importlib.import_module(f"mlx_phi3v.backend_mlx.{module}"), cls)
    monkeypatch.setattr(owner, "patches", owner.__call__, raising=False)
    monkeypatch.setattr(owner, method, wrong)
    assert first_stage(examination, "mlx") == stage


def test_a_fault_makes_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need_cpu()
    monkeypatch.setattr(report, "WEIGHTS", ())  # the kernels alone
    monkeypatch.setattr(Examination, "check_reference", lambda self: [])
    KERNEL_FAULTS["sigmoid of minus x"][0](monkeypatch)
    assert doctor.main(["--quick", "--backend", "mlx"]) == 3
    shown = capsys.readouterr().out
    assert "results cannot be trusted" in shown and "FAIL mlx swiglu" in shown
    assert "mlx: the first operation that parts is swiglu" in shown
