"""The settings of the commands that make a folder of a model or an adapter, and of the one that asks a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import shared_options
from .backend_names import BACKENDS, DTYPES, default_backend
from .cli import option
from .ranges import MAX_SEED, MAX_TOKENS

FORMS = ("mlx", "peft")


@dataclass(frozen=True)
class ConvertConfig:
    """Settings of a conversion; the flags are mlx-lm's."""

    hf_path: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    mlx_path: Path = option(Path("mlx_model"), help="folder to write; it must not exist", writes="new")
    quantize: bool = option(False, help="pack the language layers", flags=("-q",))
    q_bits: int = option(4, help="bits per weight: 4 or 8")
    q_group_size: int = option(64, help="weights that share a scale: 32, 64 or 128")
    dequantize: bool = option(False, help="unpack a quantised model")
    dtype: str | None = option(None, help="dtype of all that is not packed; by default as stored", choices=DTYPES)
    to_hf: bool = option(False, help="write the published layout, with the published code, for transformers")
    model_file: bool = shared_options.model_file()
    probe: bool = shared_options.probe()
    receipt: int = shared_options.receipt_rows()
    catalogue: Path | None = option(None, help="their catalogue; by default that of the model's tuning, if any", path=True)
    upload_repo: str | None = shared_options.upload_repo()
    public: bool = shared_options.public()
    json: bool = option(False, help="progress as JSON lines on stdout")


@dataclass(frozen=True)
class FuseConfig:
    """Settings of a merge; the flags are mlx-lm's."""

    adapter: str = option(help="LoRA adapter or training run", path=True)
    model: str = option("tiny", help="the base the adapter was trained on: folder, hub id, or 'tiny' (built in)", path=True)
    save_path: Path = option(Path("fused_model"), help="folder to write; it must not exist", writes="new")
    dequantize: bool = option(False, help="leave a packed base unpacked")
    hf: bool = option(False, help="write the published layout, with the published code, for transformers")
    model_file: bool = shared_options.model_file()
    probe: bool = shared_options.probe()
    receipt: int = shared_options.receipt_rows()
    catalogue: Path | None = option(None, help="their catalogue; by default that of the adapter's training", path=True)
    upload_repo: str | None = shared_options.upload_repo()
    public: bool = shared_options.public()
    json: bool = option(False, help="progress as JSON lines on stdout")


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export."""

    adapter: str = option(help="adapter of either form, training run, or hub id", path=True)
    output: Path = option(help="folder to write; it must not exist", writes="new")
    model: str = option("tiny", help="the base the adapter was trained on: folder, hub id, or 'tiny' (built in)", path=True)
    form: str = option("mlx", help="mlx: of mlx-vlm and mlx-lm; peft: of PEFT", choices=FORMS)
    upload_repo: str | None = shared_options.upload_repo()
    public: bool = shared_options.public()
    json: bool = option(False, help="the summary as a JSON line on stdout")


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one question."""

    image: tuple[str, ...] = option((), help="photo file; several for several <|image_k|> tags", path=True)
    prompt: str | None = option(None, help="full prompt with <|image_1|> tags; by default the one of the adapter's task")
    question: str | None = option(None, help="plain question about the photo, put into the chat template")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    adapter: str | None = option(None, help="LoRA adapter or training run", path=True)
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = shared_options.compute_dtype()
    kv_bits: int | None = shared_options.kv_bits()
    compile: bool = shared_options.compiled_step()
    num_crops: int | None = shared_options.answered_crops()
    max_new_tokens: int = option(128, help="longest answer, in tokens", at_least=1, at_most=MAX_TOKENS)
    temperature: float = option(0.0, help="0 is greedy; above it samples", at_least=0, at_most=100)
    top_p: float = option(1.0, help="nucleus of sampling", above=0, at_most=1)
    seed: int = option(0, help="seed of sampling", at_least=0, at_most=MAX_SEED)
    verify: bool = option(False, help="check the model with the three photos of its folder's probe.json")
    json: bool = option(False, help="one JSON line with text, fields, ids and log-probabilities")
