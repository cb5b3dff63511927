"""Checkpoints on disk: where they are, which tensors they hold, whether those fit the configuration.

Only safetensors headers are read here; the backends read the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .config import ModelConfig
from .errors import UserError
from .files import read_json

BUILTIN = "tiny"  # the name of the built-in model
SOURCE_FILE = "conversion.json"  # what a converted folder says of where it came from
VISION = "model.vision_embed_tokens."
CLIP = VISION + "img_processor.vision_model."
QUANTIZED = re.compile(r"model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json", "tokenizer*.json",
              "special_tokens_map.json", "generation_config.json", SOURCE_FILE, "LICENSE*"]  # fmt: skip
_ITEM_SIZE = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: file, dtype as safetensors names it ("BF16"), shape, first byte and size in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def resolve_model(name: str) -> Path:
    """The folder of a model: the built-in "tiny", a folder, or a hub id (downloaded once, no remote code).

    Raises UserError where there is none.
    """
    if name == BUILTIN:
        return Path(__file__).parent / "tiny"
    path = Path(name).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(name):
        if not path.is_dir():
            raise UserError(f"--model {name} is no folder; give a checkpoint folder, a hub id or {BUILTIN!r}")
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises many kinds, all of them "not to be had"
        raise UserError(
            f"--model {name}: no folder of that name, and the hub did not give it ({type(error).__name__}); "
            "check the id and the network, or give a folder"
        ) from None


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the published layout (592 in Phi-3-vision), before quantisation."""
    v, hidden, merged = config.vision, config.hidden_size, 4 * config.vision.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    shapes |= {VISION + "glb_GN": (1, 1, merged), VISION + "sub_GN": (1, 1, 1, merged)}
    shapes |= {VISION + "img_projection.0.weight": (hidden, merged), VISION + "img_projection.0.bias": (hidden,)}
    shapes |= {VISION + "img_projection.2.weight": (hidden, hidden), VISION + "img_projection.2.bias": (hidden,)}
    shapes |= {CLIP + "embeddings.class_embedding": (v.hidden_size,)}
    shapes |= {CLIP + "embeddings.patch_embedding.weight": (v.hidden_size, v.num_channels, v.patch_size, v.patch_size)}
    shapes |= {CLIP + "embeddings.position_embedding.weight": (v.grid**2 + 1, v.hidden_size)}

    def layer(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {name + ".weight": (rows, columns), name + ".bias": (rows,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {name + ".weight": (v.hidden_size,), name + ".bias": (v.hidden_size,)}

    shapes |= norm(CLIP + "pre_layrnorm") | norm(CLIP + "post_layernorm")
    for i in range(v.num_hidden_layers):
        at = f"{CLIP}encoder.layers.{i}."
        shapes |= norm(at + "layer_norm1") | norm(at + "layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= layer(at + "self_attn." + name, v.hidden_size, v.hidden_size)
        shapes |= layer(at + "mlp.fc1", v.intermediate_size, v.hidden_size)
        shapes |= layer(at + "mlp.fc2", v.hidden_size, v.intermediate_size)
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        shapes[at + "self_attn.qkv_proj.weight"] = (config.qkv_size, hidden)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, config.num_attention_heads * config.head_dim)
        shapes[at + "mlp.gate_up_proj.weight"] = (2 * config.intermediate_size, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, config.intermediate_size)
        shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (config.vocab_size, hidden)}


def stored_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """`expected_tensors` as they lie on disk: a quantised weight is packed, with scales and biases beside it."""
    shapes = expected_tensors(config)
    q = config.quantization
    for name, shape in list(shapes.items() if q else ()):
        if q and is_quantized(name):
            rows, columns = shape
            shapes[name] = (rows, columns * q.bits // 32)
            shapes[name.replace(".weight", ".scales")] = shapes[name.replace(".weight", ".biases")] = (
                rows,
                columns // q.group_size,
            )
    return shapes


def is_quantized(name: str) -> bool:
    """Whether conversion with -q packs this weight: the four projections of a language layer."""
    return bool(QUANTIZED.fullmatch(name.removesuffix(".weight")))


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether the model never reads this tensor: the features are `hidden_states[-2]`."""
    last = f"{CLIP}encoder.layers.{config.vision.num_hidden_layers - 1}."
    return name.startswith((last, CLIP + "post_layernorm.")) or name.endswith("position_ids")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one safetensors file, by its header. Raises UserError where the file is cut short or no safetensors."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise UserError(f"{path} is cut short (header of {length} bytes, file of {size}); download or convert it again")
            header = json.loads(file.read(length))
    except (struct.error, json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is no safetensors file or is damaged; download or convert it again") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download or convert the checkpoint again") from None
    tensors: dict[str, TensorInfo] = {}
    end = 8 + length
    try:
        entries = [
            (name, entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no safetensors file or is damaged; download or convert it again") from None
    for name, dtype, shape, begin, stop in entries:
        info = TensorInfo(path, dtype, shape, 8 + length + begin, stop - begin)
        if info.size != math.prod(info.shape) * _ITEM_SIZE.get(info.dtype, 1):
            raise UserError(f"{path}: tensor {name} has {info.size} bytes, which do not fit its shape; download it again")
        tensors[name] = info
        end = max(end, 8 + length + stop)
    if end > size:
        raise UserError(f"{path} is cut short ({size} bytes of {end}); download or convert it again")
    return tensors


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a checkpoint folder, through its index where it has one. Raises UserError for a missing shard."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise UserError(f"{folder} is no checkpoint: it has no .safetensors file")
        return {name: info for shard in shards for name, info in read_header(shard).items()}
    weight_map = read_json(index, "weight index").get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} has no weight_map; download or convert the checkpoint again")
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        raise UserError(f"{folder} lacks {_listed(missing)}, named in {index.name}; download the missing shards")
    headers = {file: read_header(folder / file) for file in sorted(set(weight_map.values()))}
    absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
    if absent:
        raise UserError(f"{folder}: {_listed(absent)} stand in {index.name} but not in their shard; download it again")
    return {name: headers[file][name] for name, file in weight_map.items()}


def check_tensors(tensors: dict[str, TensorInfo], config: ModelConfig, folder: Path) -> None:
    """Raise one UserError that names every missing, extra or misshapen tensor."""
    expected = stored_tensors(config)
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in expected and not is_unused(name, config)]
    problems += [
        f"{name} is {list(tensors[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} tensor(s) do not fit config.json: {_listed(problems, len(problems))}; "
            "is it the right config, or an incomplete download?"
        )


def open_checkpoint(folder: Path, config: ModelConfig) -> dict[str, TensorInfo]:
    """Tensors of a checkpoint, checked whole."""
    tensors = read_tensors(folder)
    check_tensors(tensors, config, folder)
    return tensors


def base_fingerprint(folder: Path) -> str:
    """Identity of the weights an adapter belongs to, the same before and after conversion and quantisation.

    Of a converted folder, what its conversion.json says; else SHA-256 over names, shapes and the first 4 KiB of each
    tensor: enough to tell checkpoints apart without reading gigabytes.
    """
    source = folder / SOURCE_FILE
    if source.is_file():
        fingerprint = read_json(source, "conversion record").get("source_fingerprint")
        if not fingerprint:
            raise UserError(f"{source} has no source_fingerprint; convert the checkpoint again")
        return str(fingerprint)
    digest = hashlib.sha256()
    tensors = read_tensors(folder)
    for name in sorted(tensors):
        info = tensors[name]
        digest.update(f"{name}{info.shape}{info.dtype}".encode())
        with open(info.file, "rb") as file:
            file.seek(info.start)
            digest.update(file.read(min(info.size, 4096)))
    return digest.hexdigest()


def tensors_digest(folder: Path, prefix: str) -> str:
    """SHA-256 over names, shapes, dtypes and every byte of the tensors whose names begin with `prefix`."""
    digest = hashlib.sha256()
    for name, info in sorted(read_tensors(folder).items()):
        if not name.startswith(prefix):
            continue
        digest.update(f"{name}{info.shape}{info.dtype}".encode())
        with open(info.file, "rb") as file:
            file.seek(info.start)
            for start in range(0, info.size, 1 << 20):
                digest.update(file.read(min(info.size - start, 1 << 20)))
    return digest.hexdigest()


def _listed(items: Iterable[str], most: int = 5) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
