"""Check and measure the torch backend on a CUDA GPU: parity, narrow dtypes, training steps, answers, a peer.

    python scripts/cuda/cuda_check.py --output cuda.json            all, on the GPU (about five minutes, 9 GB of disk)
    python scripts/cuda/cuda_check.py --small --output cuda.json    the check itself, on any CPU, at a tiny size

Needs torch, transformers, peft and this repository; no weights are downloaded, a random checkpoint of the published
shape is written and removed again. Every case is guarded: one that fails is recorded as failed and the rest goes on.
Exit status 1 where any failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's deterministic algorithms ask for it, before any use

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cuda_attention as attention  # noqa: E402
import cuda_parts as parts  # noqa: E402
import cuda_speed as speed  # noqa: E402
from cuda_model import free, make_rows, write_checkpoint  # noqa: E402

from mlx_phi3v.adapters import LANGUAGE  # noqa: E402
from mlx_phi3v.backend import load_backend  # noqa: E402

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "accelerate")
PARTS = ("parity", "logits", "attention", "answers", "train", "packed", "peer")
Cases = Iterable[tuple[str, Callable[[], dict[str, Any]]]]


class Report:
    """All rows by part; written after each case, so that an interrupted run keeps what it measured."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.parts: dict[str, Any] = {}
        self.failed: list[str] = []
        self.began = time.perf_counter()

    def run(self, part: str, cases: Cases) -> None:
        """Run and show the cases of a part."""
        rows: list[dict[str, Any]] = []
        for name, case in cases:
            try:
                rows.append({"case": name, **case()})
            except Exception as error:
                self.failed.append(f"{part}: {name}")
                rows.append({"case": name, "failed": f"{type(error).__name__}: {str(error)[:200]}"})
                rows[-1]["_traceback"] = traceback.format_exc()[-3000:]
                error.__traceback__ = None  # it holds the case's tensors
            free()
            self.parts[part] = rows
            self.write()
        self.add(part, rows)

    def stream(self, part: str, make: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Like `run`, of a part that makes its rows one by one."""
        rows: list[dict[str, Any]] = []
        try:
            for row in make():
                rows.append(row)
        except Exception as error:
            self.failed.append(part)
            rows.append({"case": "failed", "failed": f"{type(error).__name__}: {str(error)[:200]}",
                         "_traceback": traceback.format_exc()[-3000:]})  # fmt: skip
        free()
        self.add(part, rows)

    def add(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Keep, write and show rows."""
        self.parts[part] = rows
        elapsed = self.write()
        show(f"{part} ({elapsed} s since the start)", rows, self.console)

    def write(self) -> float:
        """Write all rows so far, as whole JSON at every moment; seconds since the start."""
        elapsed = round(time.perf_counter() - self.began, 1)
        text = json.dumps(parts.plain({"parts": self.parts, "failed": self.failed, "s": elapsed}), indent=1)
        partial = self.path.with_name(self.path.name + ".new")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)
        return elapsed


def show(title: str, rows: Sequence[dict[str, Any]], console: Console) -> None:
    """A table of the rows' public columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.startswith("_")))
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=column == "case")
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    console.print(table)
    for row in rows:
        for kernel in row.get("_profile", {}).get("kernels", [])[:6]:
            console.print(
                f"  {row['case']}: {kernel['ms']:9.2f} ms {kernel['calls']:6d} x {kernel['kernel'][:80]}", style="dim"
            )


def cell(value: Any) -> str:
    """Three figures of a number."""
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}" if (
        isinstance(value, float)) else str(value)  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"case": name, "cuda": str(torch.version.cuda), "python": sys.version.split()[0], **versions,
            "_settings": parts.fp32_settings()}  # fmt: skip


def training(report: Report, folder: Path, peak: float, small: bool) -> None:
    """The language model alone, with answers of the adapted model, then the image side too."""
    backend, adapter = speed.load_for_training(folder, LANGUAGE)
    report.run(
        "train, language", speed.train_cases(backend, adapter, folder, "tower frozen", speed.LANGUAGE_STEPS, peak, small)
    )
    backend.model.eval()
    report.run("answers, adapted", speed.answer_cases(backend, folder, small, ", LoRA not merged"))
    backend.model.train()
    bf16 = "features cached, 8 rows, LoRA's weights in bf16"
    report.run("train, LoRA in bf16",
               [(bf16, lambda: speed.language_with_bf16_adapter(backend, adapter, folder, peak, small))])  # fmt: skip
    del backend
    free()
    backend, adapter = speed.load_for_training(folder, speed.IMAGE_TARGETS)
    report.run("train, image side too", speed.train_cases(backend, adapter, folder, "LoRA on the image side", speed.IMAGE_STEPS,
                                                          peak, small))  # fmt: skip


def packed(report: Report, folder: Path, peak: float, device: torch.device, small: bool) -> None:
    """Training on a model in 4 bits, which torch unpacks as it loads it."""
    report.run("checkpoint, 4 bit", [
        ("written", lambda: {"bytes": write_checkpoint(folder, small=small, device=device, bits=4)})
    ])  # fmt: skip
    backend, adapter = speed.load_for_training(folder, LANGUAGE)
    report.run(
        "train, 4 bit", speed.train_cases(backend, adapter, folder, "4 bit, tower frozen", speed.PACKED_STEPS, peak, small)
    )


def kernels(report: Report, folder: Path, peak: float, device: torch.device, small: bool) -> None:
    """What the choice of kernels changes; the first part on this checkpoint, as it times shapes not seen before."""
    report.run("convolution", [("patch embedding", partial(attention.convolution, device, small))])
    backend, adapter = attention.load_language(folder)
    report.run("attention, language", attention.language_cases(backend, adapter, folder, peak, small))
    report.run("crops at once", attention.crops_cases(backend, adapter, folder, peak, small))
    del backend
    free()
    backend, adapter = attention.load_image(folder)
    report.run("attention, image side", attention.image_cases(backend, adapter, folder, peak, small))


def peer(report: Report, folder: Path, device: torch.device, small: bool) -> None:
    """transformers' language model and PEFT, text only, as many tokens."""
    from peft import LoraConfig, get_peft_model

    from mlx_phi3v.config import load_model_config

    torch.backends.cuda.enable_cudnn_sdp(True)  # torch's defaults, as its users have them
    torch.backends.cuda.enable_flash_sdp(True)
    [row], [prompt] = make_rows(folder, 1, with_answer=True), make_rows(folder, 1, with_answer=False)
    tokens, labels = len(row.input_ids), int((row.labels >= 0).sum())
    model = speed.load_peer(load_model_config(folder), device)
    new, sizes, times = (4, (1, 2), 1) if small else (64, (1, 16, 64), 5)
    report.run("peer, answers", [
        (f"transformers, {n} rows", partial(speed.peer_answers, model, n, len(prompt.input_ids), new)) for n in sizes
    ])  # fmt: skip
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=list(LANGUAGE), task_type="CAUSAL_LM"))
    model.train()
    for rows in (1, sizes[1] // 2):
        case = f"transformers + PEFT, {rows} rows"
        report.run(f"peer, train {rows}", [(case, partial(speed.peer_step, model, rows, tokens, labels, times))])


def main(argv: Sequence[str] | None = None) -> int:
    """All parts in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tiny shape, to try the check itself on a CPU")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden", help="folder of recorded outputs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for all figures")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; by default all")
    options = parser.parse_args(argv)
    if not (options.small or torch.cuda.is_available()):
        parser.error("torch sees no CUDA GPU; --small tries the check on a CPU")
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    console = Console(width=None if Console().is_terminal else 200)
    report, small = Report(options.output, console), options.small
    chosen = options.only or PARTS
    report.run("machine", [("", lambda: machine(device))])
    report.stream("ceilings", lambda: parts.ceilings(device, small=small))
    peak = 1e12 * report.parts["ceilings"][0].get("TFLOP/s", float("nan"))
    if "parity" in chosen:
        report.stream("parity", lambda: parts.parity(options.golden, small=small))
    if "logits" in chosen:
        report.stream("logits", lambda: parts.logits(options.golden))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoint"
        report.run("checkpoint", [("written", lambda: {"bytes": write_checkpoint(folder, small=small, device=device)})])
        stages: dict[str, Callable[[], Any]] = {
            "attention": lambda: kernels(report, folder, peak, device, small),
            "answers": lambda: report.run("answers", speed.answer_cases(load_backend("torch", folder), folder, small)),
            "train": lambda: training(report, folder, peak, small),
            "packed": lambda: packed(report, folder.with_name("packed"), peak, device, small),
            "peer": lambda: peer(report, folder, device, small),
        }
        for name in [name for name in stages if name in chosen]:
            try:
                stages[name]()
            except Exception:
                report.failed.append(name)
                report.add(f"{name}, failed", [{"case": name, "failed": traceback.format_exc()[-3000:]}])
            free()
    console.print(f"failed: {report.failed or 'none'}; all figures in {options.output}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
