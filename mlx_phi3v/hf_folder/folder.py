"""Everything but the weights of a folder that transformers opens with the published code (`trust_remote_code=True`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..checkpoint.fingerprint import SOURCE_FILE
from ..checkpoint.writer import ShardWriter, copy_processor
from ..config import ModelArgs, VisionArgs
from ..documents import read_as
from ..errors import UserError
from ..files import read_json, write_json, write_text
from ..hub.hub_errors import is_hub_id
from ..model_file.folder import restore_chat_template
from ..progress import note
from ..prompts import PromptProcessor
from ..trained_task import TASK_FILE, TrainedTask
from .code import Code, add_code, snapshot_of
from .published import CHAT_TEMPLATE, CONFIG_MAP, PHI35, SHARD_BYTES, Published, local_map, modules_of, published_form

_PROCESSOR, _PROCESSOR_CLASS = "preprocessor_config.json", "processor_config.json"
_EMBEDDING = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
_README = """\
# Phi-3-Vision for transformers

Written by mlx-phi3v {version} in the published layout; `conversion.json` says of which weights.

```python
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True, torch_dtype="auto", attn_implementation="eager")
processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
ids = model.generate(**inputs, eos_token_id={stops})
```

The published code was written for transformers 4, and its own README names the versions; transformers 5 does not run it.

{code}
"""
_HAS_CODE = """\
## This folder holds code

**`trust_remote_code=True` runs the Python files of this folder.** They were copied from {origin}; nothing of mlx-phi3v runs
them. Their SHA-256, as they were copied:

{hashes}
"""
_LACKS_CODE = """\
## The code is missing

Copy {files} from https://huggingface.co/{repo} into this folder before you open it with transformers.
"""


def hf_writer(folder: Path, tensors: int) -> ShardWriter:
    """A writer of shards as transformers saves them; `tensors`: most that will be added."""
    return ShardWriter(folder, tensors, form="pt", limit=SHARD_BYTES)


def drop_quantization(raw: dict[str, Any]) -> None:
    """Remove what a `config.json` says of packed weights."""
    raw.pop("quantization", None)
    raw.pop("quantization_config", None)


def require_unpacked(model: ModelArgs, name: str, dequantize: bool) -> None:
    """Raise UserError where transformers could not read the weights: packed ones that stay so."""
    if model.quantization and not dequantize:
        raise UserError(f"{name} is quantised, in a form that transformers does not read; add --dequantize")


def write_hf_files(source: Path, folder: Path, model: ModelArgs, dtype: str, trained: TrainedTask | None) -> Code:
    """Write configuration, tokenizer, processor, code and README of `source` into `folder`, which holds the weights.

    dtype: that of the stored weights ("bfloat16"). trained: what the model was tuned on, if it was.
    """
    raw = read_json(source / "config.json", "model configuration")
    before = read_json(source / _PROCESSOR, "image processor configuration") if (source / _PROCESSOR).is_file() else {}
    form = published_form(model, raw, before)
    classes, named = local_map(raw.get("auto_map"), CONFIG_MAP)
    processors, also = local_map(before.get("auto_map"), form.processor_map)
    write_json(folder / "config.json", transformers_config(raw, model, classes, dtype))
    copy_processor(source, folder)
    (folder / TASK_FILE).unlink(missing_ok=True)
    if trained:
        trained.save(folder)
    num_crops = trained.num_crops if trained else model.num_crops
    published = {"image_processor_type": "Phi3VImageProcessor", "processor_class": "Phi3VProcessor",
                 "num_img_tokens": model.vision.merged_grid**2}  # fmt: skip
    settings = {**before, **{name: value for name, value in published.items() if name not in before}}
    _write_processor(source, folder, before, {**settings, "auto_map": processors, "num_crops": num_crops})
    restore_chat_template(folder, CHAT_TEMPLATE)
    stops = _write_generation(folder, raw, tuned=trained is not None)
    _note_tower(model)
    repositories = [*_pinned(source), *((repo, None) for repo in [*named, *also, form.repo])]
    code = add_code(folder, modules_of(classes, processors), source, [*dict.fromkeys(repositories)])
    write_text(folder / "README.md", _readme(code, form, stops))
    return code


def transformers_config(raw: dict[str, Any], model: ModelArgs, classes: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A `config.json` as the published code reads it. raw: that of the source; classes: the `auto_map`."""
    made = {key: value for key, value in raw.items() if key not in ("model_file", "dtype")}
    drop_quantization(made)
    made.setdefault("architectures", ["Phi3VForCausalLM"])
    made |= {"auto_map": classes, "torch_dtype": dtype}
    vision = model.vision
    tower = {
        "image_dim_out": vision.hidden_size,
        "model_name": "openai/clip-vit-large-patch14-336",
        "name": "clip_vision_model",
        "num_img_tokens": vision.merged_grid**2,
    }
    for key, defaults in (("img_processor", tower), ("embd_layer", _EMBEDDING)):
        given = made.get(key) or {}
        made[key] = {**given, **{name: value for name, value in defaults.items() if name not in given}}
    # transformers 5 saves one entry, `rope_parameters`; the published code takes these, and in `rope_scaling` no other key.
    rope = made.get("rope_scaling")
    if made.pop("rope_parameters", None) or not (rope is None or (set(rope) == _ROPE and rope["type"] in ("su", "yarn"))):
        factors = {"long_factor": list(model.long_factor or ()), "short_factor": list(model.short_factor or ())}
        made["rope_scaling"] = {**factors, "type": "su"} if model.short_factor else None
        made["rope_theta"] = model.rope_theta
        made["original_max_position_embeddings"] = model.original_max_position_embeddings
    return made


def _pinned(source: Path) -> list[tuple[str, str | None]]:
    """(hub id, revision) of a folder of the hub's cache, or of what it was converted from."""
    snapshot = snapshot_of(source)
    if snapshot:
        return [snapshot]
    if not (source / SOURCE_FILE).is_file():
        return []
    record = read_as(source / SOURCE_FILE, "conversion record", _RecordShape)
    hub = is_hub_id(record.source) and record.source_revision and re.fullmatch(r"[0-9a-f]{40}", record.source_revision)
    return [(record.source, record.source_revision)] if hub else []


class _RecordShape(msgspec.Struct):
    """`conversion.json`: what it says of the hub."""

    source: str = ""
    source_revision: str | None = None


_ROPE = {"type", "short_factor", "long_factor"}


def _write_processor(source: Path, folder: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    """`preprocessor_config.json`, and `processor_config.json` where the published folder has one."""
    if after != before:  # else the bytes of the source stay
        write_json(folder / _PROCESSOR, after)
    if before.get("num_crops", after["num_crops"]) != after["num_crops"]:
        note(f"{_PROCESSOR}: num_crops is {after['num_crops']}, as in training, not {before['num_crops']} as in the base model")
    # Phi-3.5 has both files, with its two classes in one module.
    path = source / _PROCESSOR_CLASS
    if path.is_file() or after["auto_map"]["AutoImageProcessor"] == PHI35.image_processor:
        given = read_json(path, "processor configuration") if path.is_file() else {}
        classes = {"AutoProcessor": after["auto_map"]["AutoProcessor"]}
        write_json(folder / _PROCESSOR_CLASS, {"processor_class": after["processor_class"], **given, "auto_map": classes})


def _write_generation(folder: Path, raw: dict[str, Any], *, tuned: bool) -> list[int]:
    """`generation_config.json` where the source has none, and of a tuned model with every token that ends its answers."""
    prompts = PromptProcessor(folder)
    stops = sorted(prompts.stop_ids)
    path = folder / "generation_config.json"
    if tuned or not path.is_file():
        given = read_json(path, "generation settings") if path.is_file() else {"_from_model_config": True}
        pad = prompts.tokenizer.token_to_id("<|endoftext|>")
        ends = {"bos_token_id": raw.get("bos_token_id", 1), "eos_token_id": stops, "pad_token_id": pad}
        write_json(path, {**given, **{key: value for key, value in ends.items() if value is not None}})
    return stops


def _note_tower(model: ModelArgs) -> None:
    if model.vision != VisionArgs():
        note(
            "the published code builds CLIP ViT-L/14 at 336 pixels only: transformers does not open a model with another tower"
        )


def _readme(code: Code, form: Published, stops: list[int]) -> str:
    if code.files:
        hashes = "\n".join(f"    {digest}  {name}" for name, digest in code.files.items())
        about = _HAS_CODE.format(origin=code.origin, hashes=hashes)
    else:
        about = _LACKS_CODE.format(files=", ".join(form.files), repo=form.repo)
        note(
            f"the code that transformers runs is not beside the base's weights, and {code.origin}: "
            f"copy {', '.join(form.files)} from https://huggingface.co/{form.repo} into the folder"
        )
    return _README.format(version=__version__, stops=stops, code=about)
