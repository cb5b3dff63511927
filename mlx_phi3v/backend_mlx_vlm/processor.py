"""The processor as mlx-vlm calls it: prompts with photos -> ids, crops, grids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import mlx_vlm.models.phi3_v  # noqa: F401 (its own processor is registered on import, and must lie below ours)
import numpy as np
from mlx_vlm.models.base import install_auto_processor_patch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature

from ..config import ModelArgs
from ..crops import ProcessedImage, image_token_count, process_image
from ..errors import UserError
from ..model_file.chat_template import CHAT_TEMPLATE
from ..prompts import PromptProcessor
from ..task import END, defused
from .config import read_args

_TAG_TEXT = re.compile(r"(<\|image_\d+\|>)")
# A text that was made of ids again, as LM Studio does, has a blank where the ids of a piece begin with one.
_DECODED = re.compile(r"(<\|(?:user|system|end)\|>) (?=\n)")


def chat_text(messages: Sequence[Any], add_generation_prompt: bool) -> str:
    """Messages in the white space of the training; each `content` is text with image tags, or OpenAI's list of parts.

    The tags are numbered through the conversation. Where they are a message's last words they become its first, as the model
    was trained. Special tokens in the text are defused. Raises ValueError for
    another role.
    """
    text, images = "", 0
    for message in messages:
        role, content = message.get("role", "user"), message.get("content") or ""
        role = "system" if role == "developer" else role
        if role not in ("user", "assistant", "system"):  # it stands between the marks of a special token
            raise ValueError(f"the role of a message is {str(role)[:40]!r}; it must be user, assistant or system")
        if isinstance(content, list):
            parts = [part if isinstance(part, dict) else {"text": str(part)} for part in content]
            content = "".join("<|image_1|>" if "image" in part.get("type", "") else part.get("text") or "" for part in parts)
        pieces = _TAG_TEXT.split(str(content)) if role == "user" else [str(content)]
        tags = [f"<|image_{images + k}|>" for k in range(1, len(pieces) // 2 + 1)]
        images += len(tags)
        words = [defused(piece) for piece in pieces[::2]]
        inside = [word for word in words[1:-1] if word.strip()]
        if tags and not inside and not (words[0].strip() and words[-1].strip()):
            content = "\n".join(tags) + (words[0].rstrip() if words[0].strip() else words[-1])
        else:
            content = "".join(word + tag for word, tag in zip(words, [*tags, ""]))
        text += f"<|{role}|>\n{content}{END}"
    return text + ("<|assistant|>\n" if add_generation_prompt else "")


class Phi3VProcessor:
    """Photos and prompts -> what `Model.get_input_embeddings` takes.

    num_crops: most crops a photo is cut into: as in the training of a fused model (`task.json`), else the model's own number.
    """

    image_processor = None
    chat_template = CHAT_TEMPLATE  # mlx-vlm asks `apply_chat_template` where there is one

    def __init__(self, tokenizer: Any, prompts: PromptProcessor, args: ModelArgs, num_crops: int) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.args = args
        self.num_crops = num_crops

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> Self:
        """Of a checkpoint folder. Raises UserError for a folder that this file is not the `model_file` of."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (folder / str(config.get("model_file"))).resolve() != Path(__file__).resolve():
            raise UserError(f"{folder} has another processor")  # mlx-vlm asks the next one then
        num_crops = ModelArgs.num_crops
        for name in ("preprocessor_config.json", "task.json"):
            if (folder / name).is_file():
                num_crops = json.loads((folder / name).read_text(encoding="utf-8")).get("num_crops") or num_crops
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        return cls(tokenizer, PromptProcessor(folder), read_args(config), num_crops)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        padding: bool = True,
        num_crops: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """ids and mask [B, T], padded on the left; of photos: crops [N, 3, 336, 336] fp32 and their grids, all evaluated.

        Each prompt takes as many of the photos as its tags name, in order; prompts with all photos each share them.
        Raises UserError where tags and photos do not fit, or a prompt is longer than the model's context.
        """
        texts = [text] if isinstance(text, str) else text or ()
        prompts = [_DECODED.sub(r"\1", prompt).removeprefix("<s>") for prompt in texts]  # each piece gets its own
        photos = images if isinstance(images, (list, tuple)) else [] if images is None else [images]
        done = [process_image(_rgb(photo), num_crops or self.num_crops) for photo in photos]
        shares = self._shares(prompts, done)
        counts = [[image_token_count(image.grid, self.args.vision) for image in share] for share in shares]
        rows = [self.prompts.tokenize(prompt, count) for prompt, count in zip(prompts, counts)]
        longest = max(map(len, rows), default=0)
        if longest > self.args.max_position_embeddings:
            raise UserError(
                f"the prompt takes {longest} tokens, more than the model's {self.args.max_position_embeddings}; lower num_crops"
            )
        data: dict[str, Any] = {
            "input_ids": np.array([[0] * (longest - len(row)) + row for row in rows]),
            "attention_mask": np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        }
        used = [image for share in shares for image in share]
        if used:
            data["pixel_values"] = np.concatenate([image.distinct_crops for image in used])
        data = {key: mx.array(value) for key, value in data.items()}
        mx.eval(list(data.values()))  # the server takes them in another thread
        return BatchFeature(data={**data, **({"image_grids": [list(image.grid) for image in used]} if used else {})})

    @staticmethod
    def _shares(prompts: Sequence[str], images: Sequence[ProcessedImage]) -> list[Sequence[ProcessedImage]]:
        named = [len(set(_TAG_TEXT.findall(prompt))) for prompt in prompts]
        if len(prompts) < 2 or (sum(named) != len(images) and set(named) == {len(images)}):
            return [images for _ in prompts]
        starts = np.cumsum([0, *named]).tolist()
        return [images[first:last] for first, last in pairwise(starts)]

    def apply_chat_template(
        self, conversation: Sequence[Any], tokenize: bool = False, add_generation_prompt: bool = False, **_: Any
    ) -> str | list[int]:
        """`chat_text` of messages, or its ids."""
        text = chat_text(conversation, add_generation_prompt)
        return list(self.tokenizer.encode(text)) if tokenize else text

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)


def _rgb(photo: Any) -> Image.Image:
    return photo.convert("RGB") if isinstance(photo, Image.Image) else Image.fromarray(np.asarray(photo)).convert("RGB")


install_auto_processor_patch(["phi3_v"], Phi3VProcessor)
