"""The page, and what it asks the server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from .. import __version__
from ..batches import Example
from ..crops import process_image
from ..page_policy import csp_hash
from ..sampling import Sampling
from .app import Service, answer_of, answered
from .chat_request import read_photo
from .corrections import Corrections
from .engine import Job
from .models import ServedModel
from .reading import crops_of, fields_of
from .refusals import Refusal

_FOLDER = Path(__file__).parent / "page"
_ANSWER_TOKENS = 128  # of an answer on the page


class ReadRequest(msgspec.Struct):
    """A photo as a data: URL, and the models to ask; all where none is named."""

    photo: str
    models: list[str] | None = None


class CorrectRequest(msgspec.Struct):
    """A photo, the true values of its fields, and the answer that was wrong."""

    photo: str
    model: str
    fields: dict[str, str | float | None]
    answer: str | None = None


class PageRoutes:
    """The routes of the page. corrections: None where nothing is saved."""

    def __init__(self, service: Service, corrections: Corrections | None) -> None:
        self.service, self.corrections = service, corrections
        self.html, self.policy = assemble()

    async def page(self, request: Request) -> Response:
        """GET /"""
        return HTMLResponse(self.html, headers={"Content-Security-Policy": self.policy})

    async def about(self, request: Request) -> Response:
        """GET /page/about: the models with their fields, and what the page may do."""
        return JSONResponse(
            {
                "version": __version__,
                "models": [_described(model) for model in self.service.models.values()],
                "corrections": None if self.corrections is None else str(self.corrections.folder),
                "max_body": self.service.max_body,
            }
        )

    async def read(self, request: Request) -> Response:
        """POST /page/read: what each model reads off a photo."""
        started = time.perf_counter()
        with self.service.place():
            asked = await self.service.json(request, ReadRequest)
            models = [self.service.model(name) for name in dict.fromkeys(asked.models or self.service.models)]
            results = await asyncio.gather(*(self._read(model, asked.photo, request) for model in models))
        return JSONResponse({"results": results, "seconds": time.perf_counter() - started})

    async def _read(self, model: ServedModel, photo: str, request: Request) -> dict[str, Any]:
        began = time.perf_counter()
        example: Example = await self.service.prepare(_example, model, photo)
        ready = time.perf_counter()
        tokens = min(_ANSWER_TOKENS, self.service.max_new_tokens)
        answer = await answer_of(self.service.submit(Job(model, example, Sampling(), tokens)), request)
        seconds = {"photo": ready - began, "answer": time.perf_counter() - ready}
        crops = await self.service.prepare(crops_of, example.images[0])
        return {"model": model.name, "seconds": seconds, "crops": crops} | fields_of(model, answer)

    async def correct(self, request: Request) -> Response:
        """POST /page/correct: save a corrected row."""
        if self.corrections is None:
            raise Refusal(403, "start the server with --corrections FOLDER to save rows", code="no_corrections")
        with self.service.place():
            asked = await self.service.json(request, CorrectRequest)
            model = self.service.model(asked.model)
            photo = read_photo(asked.photo, "the photo")
            saved = await self.service.prepare(self.corrections.add, photo, model, asked.fields, asked.answer)
        return JSONResponse(saved, 201)


def _example(model: ServedModel, url: str) -> Example:
    image = process_image(read_photo(url, "the photo").rgb, model.num_crops)
    return model.maker.from_images("question", (image,), None)


def _described(model: ServedModel) -> dict[str, Any]:
    task = model.loaded.task
    labels = task.labels()
    return {
        "name": model.name,
        "adapter": None if model.loaded.adapter is None else str(model.loaded.adapter.folder),
        "num_crops": model.num_crops,
        "dtype": model.loaded.backend.dtype,
        "backend": model.loaded.backend.name,
        "fields": [
            {"name": item.name, "label": labels[item.name], "kind": item.kind, "currency": item.currency}
            for item in task.fields
        ],
    }


def assemble() -> tuple[str, str]:
    """The page as one document, and the policy that allows its own script and style only."""
    style, script, html = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; script-src {csp_hash(script)}; style-src {csp_hash(style)}; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.replace("/* style */", style).replace("/* script */", script), policy


def add_page(app: FastAPI, service: Service, corrections: Corrections | None) -> None:
    """Put the page's routes on the app."""
    page = PageRoutes(service, corrections)
    app.add_api_route("/", answered(page.page), response_model=None)
    app.add_api_route("/page/about", answered(page.about), response_model=None)
    app.add_api_route("/page/read", answered(page.read), methods=["POST"], response_model=None)
    app.add_api_route("/page/correct", answered(page.correct), methods=["POST"], response_model=None)
