"""`config.json` as mlx-vlm hands it over -> `ModelArgs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from ..config import ModelArgs, VisionArgs
from ..prompts import PromptProcessor

FOLDER = Path(__file__).parent  # as a model_file: the checkpoint's folder
# What mlx-vlm takes for placeholders of photos, by the names it reads: a text that it cuts behind a cached beginning must
# hold none. Photo k has the ids -k.
MEDIA_IDS = {"image_token_id": -1, "image_token_index": -2, "video_token_id": -3, "video_token_index": -4}


def _known(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `raw` that are plain fields of `cls`; null means the default."""
    names = {item.name for item in fields(cls)}
    return {key: value for key, value in raw.items() if key in names and value is not None and not isinstance(value, dict)}


def read_args(raw: Mapping[str, Any]) -> ModelArgs:
    """The model that a `config.json` describes. It was checked when the folder was made, see `mlx_phi3v.config`."""
    values = _known(ModelArgs, raw)
    values.setdefault("num_key_value_heads", values.get("num_attention_heads", ModelArgs.num_attention_heads))
    for entry in (raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}):
        keys = ["rope_theta", "original_max_position_embeddings"]
        if entry.get("rope_type", entry.get("type")) != "default":
            keys += ["short_factor", "long_factor"]
        values |= {key: entry[key] for key in keys if entry.get(key) is not None}
    values |= {key: tuple(values[key]) for key in ("short_factor", "long_factor") if key in values}
    values["hd_transform_order"] = (raw.get("embd_layer") or {}).get("hd_transform_order") or "sub_glb"
    values["vision"] = VisionArgs(**_known(VisionArgs, (raw.get("img_processor") or {}).get("clip") or {}))
    return ModelArgs(**values)


class ModelConfig:
    """What mlx-vlm reads of a model, and sets on it after it is made."""

    def __init__(self, raw: Mapping[str, Any], args: ModelArgs, stop_ids: Sequence[int]) -> None:
        self.raw = dict(raw)
        self.args = args
        self.stop_ids = list(stop_ids)
        self.model_type = "phi3_v"  # mlx-vlm writes photos as numbered tags for this type
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
            setattr(self, name, getattr(args, name))
        self.max_position_embeddings = args.max_position_embeddings
        self.pad_token_id = raw.get("pad_token_id")
        self.eos_token_id: Any = raw.get("eos_token_id")
        for name, value in MEDIA_IDS.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the ids that end an answer: mlx-vlm sets those of the folder's files, which lack `<|end|>` or have more."""
        if name == "eos_token_id" and self.stop_ids:
            value = self.stop_ids
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Of a `config.json`."""
        stop_ids = PromptProcessor(FOLDER).stop_ids if (FOLDER / "tokenizer.json").is_file() else ()
        return cls(raw, read_args(raw), stop_ids)

    def to_dict(self) -> dict[str, Any]:
        """The `config.json`."""
        return dict(self.raw)
