"""What a model reads off a photo: each field with its probability, and the crops that it saw."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from ..config import IMAGE_MEAN, IMAGE_STD
from ..crops import ProcessedImage
from ..decoding import Generation, answer_text
from ..value_tokens import value_places
from .models import ServedModel


def fields_of(model: ServedModel, answer: Generation) -> dict[str, Any]:
    """The answer's text, its tokens and its fields; a field's probability is the product of those of its value's tokens.

    Tokens are (text, probability); a field names the places of its own among them.
    """
    task, text = model.loaded.task, answer_text(answer, model.loaded.prompts)
    parsed = task.parse(text, truncated=answer.finish != "end")
    places = value_places(text, answer.token_ids, task, model.texts)
    shown = len(answer.token_ids) - (answer.finish == "end")
    tokens = [
        [model.texts.bytes_of(token).decode("utf-8", "replace"), math.exp(logprob)]
        for token, logprob in list(zip(answer.token_ids, answer.logprobs))[:shown]
    ]
    fields = [
        {
            "name": name,
            "value": item.value,
            "status": item.status,
            "tokens": places.get(name, []),
            "probability": math.exp(sum(answer.logprobs[i] for i in places[name])) if name in places else None,
        }
        for name, item in parsed.items()
    ]
    return {"text": text, "finish": answer.finish, "tokens": tokens, "fields": fields}


def crops_of(image: ProcessedImage) -> dict[str, Any]:
    """The crops that the model saw as JPEG in data URLs: the global view, and the others row by row on their grid."""
    pictures = [_data_url(crop) for crop in image.distinct_crops]
    return {"grid": list(image.grid), "whole": pictures[0], "crops": pictures[1:]}


def _data_url(crop: np.ndarray) -> str:
    """A normalised crop, fp32 [3, 336, 336], as a picture."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    pixels = np.clip(np.rint((crop * std + mean) * 255), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
