"""The settings of the commands that make a folder of a model or an adapter, and of the one that asks a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .backend_names import BACKENDS, DTYPES, default_backend
from .cli import option
from .ranges import MAX_CROPS, MAX_ROWS, MAX_SEED, MAX_TOKENS

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
    model_file: bool = option(True, help="write the code with which mlx-vlm and LM Studio run the model as this project does")
    probe: bool = option(True, help="store three photos with the log-probabilities that the model gives, to check it with")
    receipt: int = option(
        32, help="held-out rows answered before and after, for receipt.json; 0: none", at_least=0, at_most=MAX_ROWS
    )
    catalogue: Path | None = option(None, help="their catalogue; by default that of the model's tuning, if any", path=True)
    upload_repo: str | None = option(None, help="upload the folder to this repository of the hub, OWNER/NAME")
    public: bool = option(False, help="let everyone see that repository, where it is made; private otherwise")
    json: bool = option(False, help="progress as JSON lines on stdout")


@dataclass(frozen=True)
class FuseConfig:
    """Settings of a merge; the flags are mlx-lm's."""

    adapter: str = option(help="LoRA adapter or training run", path=True)
    model: str = option("tiny", help="the base the adapter was trained on: folder, hub id, or 'tiny' (built in)", path=True)
    save_path: Path = option(Path("fused_model"), help="folder to write; it must not exist", writes="new")
    dequantize: bool = option(False, help="leave a packed base unpacked")
    hf: bool = option(False, help="write the published layout, with the published code, for transformers")
    model_file: bool = option(True, help="write the code with which mlx-vlm and LM Studio run the model as this project does")
    probe: bool = option(True, help="store three photos with the log-probabilities that the model gives, to check it with")
    receipt: int = option(
        32, help="held-out rows answered before and after, for receipt.json; 0: none", at_least=0, at_most=MAX_ROWS
    )
    catalogue: Path | None = option(None, help="their catalogue; by default that of the adapter's training", path=True)
    upload_repo: str | None = option(None, help="upload the folder to this repository of the hub, OWNER/NAME")
    public: bool = option(False, help="let everyone see that repository, where it is made; private otherwise")
    json: bool = option(False, help="progress as JSON lines on stdout")


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export."""

    adapter: str = option(help="adapter of either form, training run, or hub id", path=True)
    output: Path = option(help="folder to write; it must not exist", writes="new")
    model: str = option("tiny", help="the base the adapter was trained on: folder, hub id, or 'tiny' (built in)", path=True)
    form: str = option("mlx", help="mlx: of mlx-vlm and mlx-lm; peft: of PEFT", choices=FORMS)
    upload_repo: str | None = option(None, help="upload the folder to this repository of the hub, OWNER/NAME")
    public: bool = option(False, help="let everyone see that repository, where it is made; private otherwise")
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
    dtype: str | None = option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)
    kv_bits: int | None = option(
        None, help="bits of a cached key or value, 8 or 4; by default as computed", at_least=4, at_most=8
    )
    compile: bool = option(False, help="compile the step of a token, once for each of a few shapes; pays on some machines")
    num_crops: int | None = option(
        None, help="most crops a photo is cut into; by default as in training, else the model's own",
        at_least=1, at_most=MAX_CROPS,
    )  # fmt: skip
    max_new_tokens: int = option(128, help="longest answer, in tokens", at_least=1, at_most=MAX_TOKENS)
    temperature: float = option(0.0, help="0 is greedy; above it samples", at_least=0, at_most=100)
    top_p: float = option(1.0, help="nucleus of sampling", above=0, at_most=1)
    seed: int = option(0, help="seed of sampling", at_least=0, at_most=MAX_SEED)
    verify: bool = option(False, help="check the model with the three photos of its folder's probe.json")
    json: bool = option(False, help="one JSON line with text, fields, ids and log-probabilities")
