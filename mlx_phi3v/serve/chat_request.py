"""A request to /v1/chat/completions: its declared shape, and the prompt and photos that it holds."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

from ..batches import Example
from ..crops import process_image
from ..documents import check_shape, parse_json, shown
from ..errors import UserError
from ..photo import Photo
from ..ranges import MAX_SEED
from ..sampling import Sampling
from ..task import END, defused
from .models import ServedModel
from .refusals import Refusal

MOST_PHOTOS = 16  # of a request
MOST_VALUES = 1_000_000  # of a request: each takes a hundred bytes once it is parsed
_MOST_TOP = 20  # likeliest tokens of a place, as OpenAI has it
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE)
_TEXT, _IMAGE = ("text", "input_text"), ("image_url", "input_image")
# What would change the answer and is not done here, with the values that change nothing.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "stop": ([], ""), "tools": ([],), "functions": ([],), "logit_bias": ({},), "n": (1,), "best_of": (1,),
    "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "top_k": (0, -1), "min_p": (0,),
    "response_format": ({"type": "text"},), "guided_json": (), "prediction": (), "audio": (),
}  # fmt: skip
Shape = TypeVar("Shape")


class ImageUrl(msgspec.Struct):
    """A photo of a message."""

    url: str
    detail: str | None = None


class Part(msgspec.Struct):
    """Text, or a photo."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class Message(msgspec.Struct):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """The keys that are read; see `_NOT_DONE` for those that are refused. Others change nothing here."""

    messages: list[Message]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def tokens(self, most: int) -> int:
        """The longest answer asked for. Raises Refusal for more than the server gives."""
        name = "max_completion_tokens" if self.max_completion_tokens is not None else "max_tokens"
        value = getattr(self, name)
        if value is None:
            return min(most, 256)
        if not 1 <= value <= most:
            raise Refusal(400, f"{name} is {value}; this server gives from 1 to {most:,} (--max-new-tokens)", name)
        return int(value)

    def sampling(self) -> Sampling:
        """How tokens are chosen: greedily where no temperature is given. Raises Refusal for a value out of its range."""
        temperature, top_p = self.temperature or 0.0, 1.0 if self.top_p is None else self.top_p
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        top = (self.top_logprobs or 0) if self.logprobs else 0
        for name, value, good, wanted in (
            ("temperature", temperature, 0 <= temperature <= 100, "from 0 to 100"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
            ("seed", seed, 0 <= seed <= MAX_SEED, "from 0 to 2**63 - 1"),
            ("top_logprobs", top, 0 <= top <= _MOST_TOP, f"from 0 to {_MOST_TOP}"),
        ):
            if not good:
                raise Refusal(400, f"{name} is {value}; it must be {wanted}", name)
        return Sampling(temperature, top_p, seed, top)


def read_body(body: bytes, shape: type[Shape]) -> Shape:
    """A JSON body as `shape`. Raises Refusal where it is none, or asks for what is not done here."""
    values = sum(map(body.count, (b",", b"[", b"{")))  # at most so many; a photo's base64 has none of these
    if values > MOST_VALUES:
        raise Refusal(
            413, f"the request holds {values:,} commas and brackets; at most {MOST_VALUES:,} are taken", code="too_large"
        )
    try:
        value = parse_json(body, "the request")
        _refuse_not_done(value)
        return check_shape(value, shape, "the request")
    except UserError as error:
        raise Refusal(400, str(error)) from None
    except ValueError as error:
        raise Refusal(400, f"the request is not valid JSON ({error})", code="invalid_json") from None


def _refuse_not_done(value: Any) -> None:
    if isinstance(value, dict):
        for key, neutral in _NOT_DONE.items():
            if value.get(key) is not None and value[key] not in neutral:
                raise Refusal(400, f"{key} is not supported by this server; leave it out", key, "unsupported")


def read_photo(url: str, name: str) -> Photo:
    """The photo of a data: URL, not decoded yet. Raises Refusal for any other address."""
    head = _DATA_URL.match(url[:200])
    if head is None:
        kind = "data: URL without base64" if url[:5].lower() == "data:" else "no data: URL"
        raise Refusal(
            400, f"{name} is {kind}; send the photo itself as data:image/jpeg;base64,..., this server fetches nothing",
            "image_url", "invalid_image_url",
        )  # fmt: skip
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{name} is not base64; encode the photo's file", "image_url", "invalid_image_url") from None
    return Photo(name, data)


def make_example(request: ChatRequest, model: ServedModel) -> Example:
    """The prompt and crops of a request. Raises Refusal or UserError for what cannot be asked."""
    if not request.messages or request.messages[-1].role != "user":
        raise Refusal(400, "the last message must be of the role user", "messages")
    urls: list[str] = []
    text = "".join(_turn(message, urls) for message in request.messages)
    if len(urls) > MOST_PHOTOS:
        raise Refusal(400, f"the request has {len(urls)} photos; at most {MOST_PHOTOS} are taken", "messages")
    # One after the other, so that of all but one only the crops are in memory.
    images = tuple(process_image(read_photo(url, f"photo {k}").rgb, model.num_crops) for k, url in enumerate(urls, 1))
    # Photos without a word get the question that the model was trained on.
    asks_nothing = len(request.messages) == 1 and bool(urls) and not _text_of(request.messages[0]).strip()
    prompt = None if asks_nothing else f"{text}<|assistant|>\n"
    return model.maker.from_images("question", images, None, prompt)


def _turn(message: Message, urls: list[str]) -> str:
    """A message in the chat format that is trained here (`turns.row_exchanges`); adds its photos to `urls`."""
    shown = [_url(part) for part in _parts(message) if part.type in _IMAGE]
    if shown and message.role != "user":
        raise Refusal(400, f"a photo is in a message of the role {message.role}; put it into one of the user", "messages")
    tags = "\n".join(f"<|image_{number}|>" for number in range(len(urls) + 1, len(urls) + len(shown) + 1))
    urls += shown
    role = "system" if message.role == "developer" else message.role
    return f"<|{role}|>\n{tags}{defused(_text_of(message))}{END}"


def _text_of(message: Message) -> str:
    return "".join(part.text or "" for part in _parts(message) if part.type in _TEXT)


def _parts(message: Message) -> Sequence[Part]:
    if message.content is None or isinstance(message.content, str):
        return (Part("text", message.content or ""),)
    for part in message.content:
        if part.type not in (*_TEXT, *_IMAGE):
            raise Refusal(400, f"a part of a message is of the type {shown(part.type)}; give text or image_url", "messages")
    return message.content


def _url(part: Part) -> str:
    url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
    if not url:
        raise Refusal(400, "a part of the type image_url has no image_url", "messages")
    return url
