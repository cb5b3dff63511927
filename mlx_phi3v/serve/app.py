"""The app: OpenAI's endpoints, and those of the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ..decoding import Generation, StreamedText, answer_text
from ..errors import UserError, report_fault
from ..photo import PhotoError
from ..system_errors import os_sentence
from .chat_request import ChatRequest, Shape, make_example, read_body
from .chat_response import Completion, event
from .engine import Busy, Ended, Engine, Job
from .models import ServedModel
from .refusals import Refusal

_MOST_OPEN = 128  # requests whose bodies are here
_PREPARING = 2  # photos decoded at a time: each may take a gigabyte
_BODY_SECONDS = 60.0
_DRAINED = 8  # times the limit: what is read of a body that is too large, so that its sender hears why
_LOOK_SECONDS = 1.0  # how often it is looked whether the client still waits


class Service:
    """What the routes share: the models, the engine that answers, and the limits. models: the first is the default."""

    def __init__(self, models: Sequence[ServedModel], engine: Engine, max_new_tokens: int, max_body: int) -> None:
        self.models = {model.name: model for model in models}
        self.engine, self.max_new_tokens, self.max_body = engine, max_new_tokens, max_body
        self._open = 0
        self.pool = ThreadPoolExecutor(_PREPARING, thread_name_prefix="prepare")

    def model(self, name: str | None) -> ServedModel:
        """The model of that name. Raises Refusal where there is none."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refusal(404, f"the model {name[:100]!r} is not served here; choose {known}", "model", "model_not_found")
        return self.models[name]

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the requests whose bodies are here at a time. Raises Refusal where there are too many."""
        if self._open >= _MOST_OPEN:
            raise _busy()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def json(self, request: Request, shape: type[Shape]) -> Shape:
        """The request's JSON body as `shape`. Raises Refusal for another type, and as `body` and `read_body`."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the Content-Type must be application/json")
        return cast(Shape, await self.prepare(read_body, await self.body(request), shape))

    async def body(self, request: Request) -> bytes:
        """The request's body. Raises Refusal for one that is too large or takes too long."""
        data, size = bytearray(), 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for piece in _pieces(request):
                    size += len(piece)
                    if size > _DRAINED * self.max_body:
                        break
                    if size <= self.max_body:
                        data += piece
        except TimeoutError:
            raise Refusal(408, f"the request took longer than {_BODY_SECONDS:.0f} s to arrive") from None
        if size > self.max_body:
            limit = self.max_body / 1e6
            raise Refusal(413, f"the request has more than {limit:g} MB (--max-body-mb); send a smaller photo",
                          code="too_large")  # fmt: skip
        return bytes(data)

    async def prepare(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what takes long outside the event loop, a few at a time."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *arguments))

    def submit(self, job: Job) -> Job:
        """Queue a question. Raises Refusal where that cannot be."""
        try:
            return self.engine.submit(job)
        except Busy:
            raise _busy() from None
        except Ended:
            raise Refusal(503, "the server is ending", code="ending") from None


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Refusal where the client goes away amid it."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _gone()
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _gone() -> Refusal:
    return Refusal(499, "the client went away")


def _busy() -> Refusal:
    return Refusal(503, "too many requests wait; try again in a moment", code="busy")


async def answer_of(job: Job, request: Request) -> Generation:
    """The answer, waited for as long as the client does."""
    future = asyncio.wrap_future(job.future)
    try:
        while not future.done():
            await asyncio.wait({future}, timeout=_LOOK_SECONDS)
            if not future.done() and await request.is_disconnected():
                raise _gone()
        return await _result(future)
    finally:
        job.drop()


async def _result(future: asyncio.Future[Generation]) -> Generation:
    try:
        return await future
    except Ended:
        raise Refusal(503, "the server is ending", code="ending") from None
    except UserError as error:
        raise Refusal(500, str(error)) from None


def answered(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route whose refusals, mistakes and faults become responses."""

    async def safe(request: Request) -> Response:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except PhotoError as error:
            return Refusal(400, str(error), code="bad_photo").response()
        except UserError as error:
            return Refusal(400, str(error)).response()
        except OSError as error:
            return Refusal(507, os_sentence(error) or report_fault(error), code="disk").response()
        except Exception as error:  # a fault of ours: it ends this request, not the server
            return Refusal(500, report_fault(error)).response()

    return safe


class ChatRoutes:
    """OpenAI's endpoints."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [_model_card(model) for model in self.service.models.values()]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/NAME"""
        return JSONResponse(_model_card(self.service.model(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        with self.service.place():
            asked = await self.service.json(request, ChatRequest)
            model = self.service.model(asked.model)
            sampling, tokens = asked.sampling(), asked.tokens(self.service.max_new_tokens)
            example = await self.service.prepare(make_example, asked, model)
            asked.messages.clear()  # with the photos, which need not wait with the crops
        completion = Completion(model, example, bool(asked.logprobs))
        job = Job(model, example, sampling, tokens)
        if not asked.stream:
            return JSONResponse(completion.whole(await answer_of(self.service.submit(job), request)))
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = self._events(completion, _Stream(self.service, job), with_usage)
        return StreamingResponse(events, media_type="text/event-stream")

    async def _events(self, completion: Completion, stream: _Stream, with_usage: bool) -> AsyncIterator[str]:
        prompts = completion.model.loaded.prompts
        text = StreamedText(prompts)
        try:
            yield event(completion.chunk({"role": "assistant", "content": ""}))
            async for token in stream.tokens():
                if added := text.add(token):
                    yield event(completion.chunk({"content": added}))
            answer = await _result(asyncio.wrap_future(stream.job.future))
            if rest := text.rest(answer_text(answer, prompts)):
                yield event(completion.chunk({"content": rest}))
            yield event(completion.chunk({}, answer))
            if with_usage:
                yield event(completion.usage_chunk(answer))
        except Refusal as refusal:
            yield event(refusal.body())
        finally:
            stream.job.drop()  # also where the client has gone
        yield event("[DONE]")


class _Stream:
    """The tokens of a job, brought from the engine's thread into the event loop."""

    def __init__(self, service: Service, job: Job) -> None:
        self.job = job
        self._queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        job.on_token = self._put
        service.submit(job)
        job.future.add_done_callback(lambda _: self._put(None))

    def _put(self, token: int | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, token)

    async def tokens(self) -> AsyncIterator[int]:
        """The tokens as they come."""
        while (token := await self._queue.get()) is not None:
            yield token


def _model_card(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "mlx-phi3v"}


def make_app(service: Service) -> FastAPI:
    """The app without a guard. It has no page of FastAPI's own, as those load scripts from elsewhere."""

    async def missing(request: Request, error: Exception) -> Response:
        return Refusal(404, f"there is nothing at {request.url.path[:100]}", code="not_found").response()

    async def wrong_method(request: Request, error: Exception) -> Response:
        return Refusal(405, f"{request.url.path[:100]} does not take {request.method}", code="method").response()

    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, exception_handlers={404: missing, 405: wrong_method},
        redirect_slashes=False,
    )  # fmt: skip
    chat = ChatRoutes(service)
    app.add_api_route("/v1/models", answered(chat.models), response_model=None)
    app.add_api_route("/v1/models/{name:path}", answered(chat.one_model), response_model=None)
    app.add_api_route("/v1/chat/completions", answered(chat.chat), methods=["POST"], response_model=None)
    return app
