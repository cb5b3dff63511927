"""The models that are served: loaded, named, and ready to make examples of questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..adapter_files import resolve_adapter
from ..batches import ExampleMaker
from ..decoding import LoadedModel, load_model
from ..errors import UserError
from ..prefix_cache import PrefixCache
from ..progress import note, say
from ..value_tokens import TokenTexts
from .settings import ServeConfig


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under the name that clients know it by.

    created: when it was loaded, in seconds since 1970; prefix_bytes: what `prefixes` may take.
    """

    name: str
    loaded: LoadedModel
    num_crops: int
    prefix_bytes: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def maker(self) -> ExampleMaker:
        """Makes examples of photos and prompts."""
        return ExampleMaker(self.loaded.prompts, self.loaded.backend.config, self.loaded.task, self.num_crops)

    @cached_property
    def prefixes(self) -> PrefixCache:
        """The conversations read last."""
        return PrefixCache(self.loaded.backend.config, self.prefix_bytes)

    @cached_property
    def texts(self) -> TokenTexts:
        """What each token adds to a text."""
        return TokenTexts(self.loaded.prompts.tokenizer)


def load_models(config: ServeConfig) -> list[ServedModel]:
    """The model, and the one to compare it with. Raises UserError where one cannot be loaded."""
    wanted = [(config.model, config.adapter)]
    if config.compare is not None:
        wanted.append((config.model, config.compare) if _is_adapter(config.compare) else (config.compare, None))
    served: list[ServedModel] = []
    for name, (model, adapter) in zip(_names(wanted), wanted):
        say(f"loading {name} on {config.backend}", as_json=config.json)
        options = {"kv_bits": config.kv_bits, "compiled": config.compile}
        loaded = load_model(model, config.backend, adapter, config.dtype, **options)
        for difference in loaded.differences(config.num_crops):
            note(difference)
        served.append(ServedModel(name, loaded, loaded.num_crops(config.num_crops), int(config.prefix_cache_gb * 1e9)))
    return served


def _is_adapter(name: str) -> bool:
    """Whether a folder is an adapter or a training run."""
    try:
        return resolve_adapter(name, hub=False).is_dir()
    except UserError:
        return False


def _names(wanted: Sequence[tuple[str, str | None]]) -> list[str]:
    """Short names, each once: those of the folders."""
    names: list[str] = []
    for model, adapter in wanted:
        name = Path(adapter or model).resolve().name or "model"
        number = 2
        while name in names:
            name, number = f"{name.removesuffix(f'-{number - 1}')}-{number}", number + 1
        names.append(name)
    return names
