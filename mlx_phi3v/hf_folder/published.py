"""What the two published folders say beside the weights, as far as transformers needs it: repositories, code, `auto_map`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import ModelArgs

SHARD_BYTES = 5_000_000_000  # transformers' `max_shard_size` as the published checkpoints were saved
CONFIG_MAP = {
    "AutoConfig": "configuration_phi3_v.Phi3VConfig",
    "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{- '<|assistant|>\n' -}}{% endif %}"
)


@dataclass(frozen=True)
class Published:
    """One of the two published models. image_processor: its class; files: its Python code."""

    repo: str
    image_processor: str
    files: tuple[str, ...]

    @property
    def processor_map(self) -> dict[str, str]:
        """The `auto_map` of `preprocessor_config.json`."""
        return {"AutoImageProcessor": self.image_processor, "AutoProcessor": "processing_phi3_v.Phi3VProcessor"}


PHI3 = Published(
    "microsoft/Phi-3-vision-128k-instruct",
    "image_processing_phi3_v.Phi3VImageProcessor",
    (
        "configuration_phi3_v.py",
        "image_embedding_phi3_v.py",
        "image_processing_phi3_v.py",
        "modeling_phi3_v.py",
        "processing_phi3_v.py",
    ),
)
PHI35 = Published(
    "microsoft/Phi-3.5-vision-instruct",
    "processing_phi3_v.Phi3VImageProcessor",
    ("configuration_phi3_v.py", "modeling_phi3_v.py", "processing_phi3_v.py"),
)
_FIRST_FACTOR = 1.05  # of Phi-3-vision's short RoPE factors; Phi-3.5's is 1.08


def published_form(model: ModelArgs, raw: Mapping[str, Any], processor: Mapping[str, Any]) -> Published:
    """Which of the two a model is of: as its image processor's class, its own name, or its RoPE factors say; else Phi-3.5.

    raw, processor: its `config.json` and `preprocessor_config.json`.
    """
    given = processor.get("auto_map")
    classes = str(given.get("AutoImageProcessor", "")).rpartition("--")[2] if isinstance(given, dict) else ""
    name = str(raw.get("_name_or_path"))
    for form, words in ((PHI35, "Phi-3.5-vision"), (PHI3, "Phi-3-vision")):
        if classes == form.image_processor or (not classes and words in name):
            return form
    return PHI3 if model.short_factor and model.short_factor[0] == _FIRST_FACTOR else PHI35


def published_order(names: Iterable[str]) -> Iterator[str]:
    """The names in the published code's own order, which decides what is in which shard: `o_proj` before `qkv_proj`."""
    held = ""
    for name in names:
        if name.endswith("self_attn.qkv_proj.weight"):
            held = name
            continue
        yield name
        if held:
            yield held
            held = ""
    if held:
        yield held


def local_map(given: object, published: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """(the `auto_map` with code beside the weights, repositories that it named): transformers saves `repo--module.Class`.

    given: the `auto_map` of the source; one that is none or names no plain modules gives way to the published one.
    """
    classes: dict[str, Any] = {}
    repositories: list[str] = []
    for key, value in given.items() if isinstance(given, dict) else ():
        items = value if isinstance(value, list) else [value]
        cut = [item.rpartition("--") if isinstance(item, str) else ("", "", item) for item in items]
        if not all(item is None or (isinstance(item, str) and re.fullmatch(r"\w+\.\w+", item)) for *_, item in cut):
            continue
        repositories += [repo for repo, *_ in cut if repo and repo not in repositories]
        names = [item for *_, item in cut]
        classes[key] = names if isinstance(value, list) else names[0]
    return {**published, **classes}, repositories


def modules_of(*maps: Mapping[str, Any]) -> list[str]:
    """The modules that `auto_map`s name, each once."""
    values = (value for classes in maps for value in classes.values())
    items = (item for value in values for item in (value if isinstance(value, list) else [value]))
    return sorted({item.partition(".")[0] for item in items if item})
