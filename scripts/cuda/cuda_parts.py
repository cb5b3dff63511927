"""Results in `scripts/cuda/cuda_check.py`: against the recorded outputs, and the narrow dtypes against fp32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cuda_model import free, make_rows, median_seconds
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.parity import golden as recorded
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.golden.checks import relative_error, worst_by_stage


def fp32_settings() -> dict[str, Any]:
    """What decides how exact fp32, bf16 and fp16 products are on CUDA."""
    matmul = torch.backends.cuda.matmul
    return {
        "matmul.allow_tf32": matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "bf16 reduced-precision reduction": matmul.allow_bf16_reduced_precision_reduction,
        "fp16 reduced-precision reduction": matmul.allow_fp16_reduced_precision_reduction,
    }


def set_tf32(matmul: bool, convolution: bool) -> None:
    """TF32 in matrix products and in cuDNN's convolutions."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


# name -> (TF32 in matrix products and in convolutions, set after loading; None: as loading leaves them), attention kernels
PARITY: dict[str, tuple[tuple[bool, bool] | None, list[SDPBackend] | None]] = {
    "as loaded": (None, None),
    "torch's defaults (TF32 in convolutions)": ((False, True), None),
    "no TF32": ((False, False), None),
    "no TF32, plain attention kernel": ((False, False), [SDPBackend.MATH]),
    "TF32 everywhere": ((True, True), None),
}


@contextmanager
def set_after_loading(tf32: tuple[bool, bool] | None, kernels: list[SDPBackend] | None) -> Iterator[None]:
    """Every backend that `eval.parity.golden` loads computes with these settings."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def load(*arguments: Any, **options: Any) -> Any:
        backend = load_backend(*arguments, **options)
        if tf32:
            set_tf32(*tf32)
        return backend

    attention: AbstractContextManager[Any] = sdpa_kernel(kernels) if kernels else nullcontext()
    try:
        with mock.patch.object(recorded, "load_backend", load), attention:
            yield
    finally:
        set_tf32(*before)


def parity(golden: Path, *, small: bool) -> Iterator[dict[str, Any]]:
    """The worst check of each stage in fp32 under each setting. On a CPU only as loaded: the settings are CUDA's."""
    for name, (tf32, kernels) in list(PARITY.items())[: 1 if small else None]:
        with set_after_loading(tf32, kernels):
            checks = recorded.check_backend(golden, "torch")
            settings = fp32_settings()
        failed = [asdict(check) for check in checks if not check.passed]
        stages = {worst.stage: worst.error for worst in worst_by_stage(checks)}
        yield {"case": name, **stages, "passed": len(checks) - len(failed), "failed checks": len(failed),
               "_settings": settings, "_failures": failed[:20],
               "_worst": [asdict(worst) for worst in worst_by_stage(checks)]}  # fmt: skip


def logits_examples(golden: Path) -> dict[str, tuple[Path, list[tuple[Example, int]]]]:
    """Checkpoints with (row, first position whose logits count): the recorded cases, and the built-in trained model."""
    cases = [(case.example, case.prompt_tokens - 1) for case in recorded.load_cases(golden)]
    tiny = resolve_model("tiny")
    rows = [(row, int(np.flatnonzero(row.labels >= 0)[0]) - 1) for row in make_rows(tiny, 4, with_answer=True)]
    return {"golden": (golden / "checkpoint", cases), "tiny": (tiny, rows)}


def logits(golden: Path) -> Iterator[dict[str, Any]]:
    """bf16 and fp16 logits against fp32 ones of the same backend: errors over the largest fp32 logit of a case."""
    for model, (folder, examples) in logits_examples(golden).items():
        outputs: dict[str, list[np.ndarray]] = {}
        for dtype in ("float32", "bfloat16", "float16"):
            backend = load_backend("torch", folder, dtype=dtype)
            outputs[dtype] = [backend.forward(collate([row], backend.config), start).logits[0] for row, start in examples]
            del backend
            free()
        for dtype in ("bfloat16", "float16"):
            pairs = list(zip(outputs[dtype], outputs["float32"]))
            errors = [relative_error(ours, exact) for ours, exact in pairs]
            agreement = np.concatenate([ours.argmax(-1) == exact.argmax(-1) for ours, exact in pairs])
            rms = np.sqrt(np.mean([np.mean((ours - exact) ** 2) / np.mean(exact**2) for ours, exact in pairs]))
            yield {"case": f"{model} {dtype}", "largest error": max(errors), "rms error": float(rms),
                   "same first choice": float(agreement.mean()), "tokens": len(agreement),
                   "_by_case": {row.id: error for (row, _), error in zip(examples, errors)}}  # fmt: skip


def ceilings(device: torch.device, *, small: bool) -> Iterator[dict[str, Any]]:
    """What matrix products and copies reach here, on random data."""
    n = 512 if small else 8192
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        taken = median_seconds(partial(torch.matmul, a, b), 10)
        yield {"case": f"{n}^3 product, {str(dtype).removeprefix('torch.')}", "TFLOP/s": 2 * n**3 / taken / 1e12}
    source = torch.randn(2**20 if small else 2**30, device=device)
    target = torch.empty_like(source)
    taken = median_seconds(lambda: target.copy_(source), 10)
    yield {"case": "copy on the device, read and written", "TB/s": 2 * 4 * source.numel() / taken / 1e12}
    host = torch.randn(2**20 if small else 2**26)
    taken = median_seconds(lambda: host.to(device), 5)
    yield {"case": "copy to the device from plain memory", "TB/s": 4 * host.numel() / taken / 1e12}


def repeatable(backend: Any, batch: Any) -> dict[str, Any]:
    """Whether the same batch gives the same gradient, bit for bit, twice."""
    gradients: list[list[torch.Tensor]] = []
    for _ in range(2):
        backend.accumulate(batch)
        gradients.append([parameter.grad.clone() for parameter in backend.parameters.values()])
        backend.optimizer.zero_grad(set_to_none=True)
    largest = max(float(a.abs().max()) for a in gradients[0])
    difference = max(float((a - b).abs().max()) for a, b in zip(*gradients))
    return {"same bits": difference == 0, "largest difference / largest gradient": difference / max(largest, 1e-30)}


def plain(value: Any) -> Any:
    """Numbers that JSON knows."""
    return json.loads(json.dumps(value, default=float))
