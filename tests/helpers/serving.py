"""A server in a thread of the tests, as `mlx_phi3v.serve` runs it, and requests to it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from mlx_phi3v.serve.engine import Engine
from mlx_phi3v.serve.models import ServedModel, load_models
from mlx_phi3v.serve.server import answering, listening
from mlx_phi3v.serve.settings import ServeConfig
from tests.helpers.catalogue import random_picture

WAIT = 600.0  # seconds: far more than anything here takes, also on a busy machine


@dataclass
class Serving:
    """A running server. base: its address."""

    config: ServeConfig
    base: str
    engine: Engine
    models: list[ServedModel]
    client: httpx.Client = field(repr=False)

    def post(self, path: str, value: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, content=json.dumps(value), headers={"Content-Type": "application/json"} | headers)

    def chat(self, content: Any, **more: Any) -> httpx.Response:
        """One message of the user to the chat endpoint."""
        messages = [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 24} | more)


@contextmanager
def serving(config: ServeConfig, token: str | None = None) -> Iterator[Serving]:
    """Serve while the block runs; the models are loaded in the thread that runs them."""
    engine, ready = Engine(config.batch_size), threading.Event()
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            with listening(config) as listener:
                found["models"] = load_models(config)
                with answering(config, token, found["models"], engine, listener):
                    found["base"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
                    ready.set()
                    engine.run()
        finally:
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(WAIT) and "base" in found
    try:
        with httpx.Client(base_url=found["base"], timeout=WAIT) as client:
            yield Serving(config, found["base"], engine, found["models"], client)
    finally:
        engine.stop()
        thread.join(WAIT)


def png(width: int = 300, height: int = 200, seed: int = 0) -> bytes:
    """A photo's file."""
    buffer = io.BytesIO()
    random_picture(width, height, seed).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(*photos: bytes, text: str = "") -> list[dict[str, Any]]:
    """The content of a message with photos."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(photo)}} for photo in photos]
    return [*parts, {"type": "text", "text": text}] if text else parts


def events(response: httpx.Response) -> list[Any]:
    """The pieces of a stream; its end is checked."""
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
