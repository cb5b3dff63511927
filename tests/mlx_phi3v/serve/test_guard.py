"""Hostile requests are refused in one sentence, and the server goes on."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import Request
from PIL import Image

from mlx_phi3v.errors import UserError
from mlx_phi3v.serve.__main__ import main
from mlx_phi3v.serve.app import Service
from mlx_phi3v.serve.chat_request import ChatRequest, read_body
from mlx_phi3v.serve.guard import Guard, Message, is_loopback
from mlx_phi3v.serve.refusals import Refusal
from mlx_phi3v.serve.settings import ServeConfig
from tests.helpers.serving import Serving, data_url, png, shown

Result = TypeVar("Result")
TOKEN = "a-token-of-some-length"


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, in OpenAI's form and one sentence."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"] and len(error["message"]) < 250 and "Traceback" not in error["message"]
    return error


def image_part(url: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}]


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/page/%2e%2e/%2e%2e/etc/passwd", "/page/page.js", "/..%2fpyproject.toml"]
)
def test_no_path_leads_to_a_file(mlx_server: Serving, path: str) -> None:
    assert refused(mlx_server.client.get(path), 404)["code"] == "not_found"
    assert refused(mlx_server.client.get("/v1/models/../../etc/passwd"), 404)


def test_a_model_name_that_is_a_path_is_no_model(mlx_server: Serving) -> None:
    assert refused(mlx_server.chat("x", model="../../etc"), 404)["code"] == "model_not_found"


def test_a_huge_body_is_not_taken(mlx_server: Serving) -> None:
    for headers in ({}, {"Transfer-Encoding": "chunked"}):
        content = b"[" * 3_000_000
        body: Any = iter([content]) if headers else content
        response = mlx_server.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert refused(response, 413)["code"] == "too_large"
    assert refused(mlx_server.post("/page/read", {"photo": "x" * 2_100_000}), 413)


def test_json_that_is_nested_too_deeply_is_refused(mlx_server: Serving) -> None:
    body = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    response = mlx_server.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert "nested too deeply" in refused(response, 400)["message"]


@pytest.mark.parametrize("piece", [b"[],", b'{"a":1},', b"1,"])
def test_json_of_very_many_values_is_refused_before_it_is_parsed(piece: bytes) -> None:
    with pytest.raises(Refusal, match="commas and brackets; at most 1,000,000") as refusal:
        read_body(b'{"messages":[' + piece * 1_000_001 + b"[]]}", ChatRequest)
    assert refusal.value.status == 413


def test_a_value_of_the_request_is_shown_cut(mlx_server: Serving) -> None:
    assert len(refused(mlx_server.chat([{"type": "x" * 100_000}]), 400)["message"]) < 200
    corrected = {"photo": data_url(png()), "model": "tiny", "fields": {"z" * 100_000: "x"}}
    assert len(refused(mlx_server.post("/page/correct", corrected), 400)["message"]) < 200


def test_a_client_that_goes_away_amid_its_body_is_no_fault_of_ours(mlx_server: Serving) -> None:
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(pieces)

    service = Service(mlx_server.models, mlx_server.engine, 8, 1000)
    with pytest.raises(Refusal, match="the client went away"):
        asyncio.run(service.body(Request({"type": "http", "headers": []}, receive)))


def test_a_decompression_bomb_is_not_decoded(mlx_server: Serving) -> None:
    assert "pixels" in refused(mlx_server.chat(shown(bomb())), 400)["message"]
    assert "pixels" in refused(mlx_server.post("/page/read", {"photo": data_url(bomb())}), 400)["message"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/x.png", "https://example.org/x.png", "file:///etc/passwd", "/etc/passwd", "data:image/png,abc",
     "data:image/png;base64,!!!", "ftp://x/y", "", "data:text/html;base64,PHNjcmlwdD4="],
)  # fmt: skip
def test_a_photo_comes_with_the_request_or_not_at_all(mlx_server: Serving, url: str) -> None:
    message = refused(mlx_server.chat(image_part(url)), 400)["message"]
    assert "passwd" not in message
    refused(mlx_server.post("/page/read", {"photo": url}), 400)


def test_a_format_that_starts_another_program_is_no_photo(mlx_server: Serving) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    assert refused(mlx_server.chat(shown(eps)), 400)["code"] == "bad_photo"
    tiny = io.BytesIO()
    Image.new("RGB", (4, 4)).save(tiny, "PNG")
    assert "at least 8 pixels" in refused(mlx_server.chat(shown(tiny.getvalue())), 400)["message"]
    assert "truncated" in refused(mlx_server.chat(shown(png()[:3000])), 400)["message"]


def test_too_many_photos_are_refused(mlx_server: Serving) -> None:
    assert "at most 16" in refused(mlx_server.chat(shown(*[png(20, 20)] * 17)), 400)["message"]


def test_a_prompt_that_is_too_long_is_refused(mlx_server: Serving) -> None:
    assert "tokens, more than" in refused(mlx_server.chat("word " * 15_000), 400)["message"]


def test_a_text_that_is_too_long_by_its_letters_is_not_tokenised(mlx_server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_phi3v.prompts.PromptProcessor._ids", None)
    assert "tokens or more, more than" in refused(mlx_server.chat("word " * 300_000), 400)["message"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "192.168.0.9", "[::2]", "a b", ""]
)
def test_a_foreign_host_is_refused(mlx_server: Serving, host: str) -> None:
    response = mlx_server.client.get("/page/about", headers={"Host": host})
    assert response.status_code in (400, 403) and "models" not in response.text


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_a_page_of_another_site_is_refused(mlx_server: Serving, headers: dict[str, str]) -> None:
    assert refused(mlx_server.post("/page/read", {"photo": data_url(png())}, **headers), 403)["code"] == "foreign_origin"
    response = mlx_server.client.options("/v1/chat/completions", headers=headers | {"Access-Control-Request-Method": "POST"})
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers


def test_the_own_page_and_a_link_to_it_are_let_in(mlx_server: Serving) -> None:
    assert (
        mlx_server.client.get("/page/about", headers={"Origin": mlx_server.base, "Sec-Fetch-Site": "same-origin"}).status_code
        == 200
    )
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert mlx_server.client.get("/", headers=link).status_code == 200


def test_a_form_of_another_site_cannot_post(mlx_server: Serving) -> None:
    body = json.dumps({"photo": data_url(png())})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        refused(mlx_server.client.post("/page/read", content=body, headers={"Content-Type": kind}), 415)


def test_every_response_has_the_headers_that_protect_it(mlx_server: Serving) -> None:
    page = mlx_server.client.get("/")
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert "unsafe-inline" not in page.headers["content-security-policy"]
    for response in (page, mlx_server.client.get("/v1/models"), mlx_server.client.get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff" and response.headers["x-frame-options"] == "DENY"
        assert response.headers["cache-control"] == "no-store" and "server" not in response.headers
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_a_method_that_is_not_taken_is_named(mlx_server: Serving) -> None:
    refused(mlx_server.client.get("/v1/chat/completions"), 405)
    for path in ("/docs", "/redoc", "/openapi.json"):
        refused(mlx_server.client.get(path), 404)


def test_it_still_answers_afterwards(mlx_server: Serving) -> None:
    assert mlx_server.chat("Hello").status_code == 200


def guarded(host: str, token: str | None = TOKEN, names: tuple[str, ...] = ()) -> httpx.AsyncClient:
    """A client of a guarded app that says ok."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"ok"})

    transport = httpx.ASGITransport(app=Guard(app, host, names, token))
    return httpx.AsyncClient(transport=transport, base_url="http://192.168.0.9:8080")


def run(task: Coroutine[Any, Any, Result]) -> Result:
    """In a thread of its own, as playwright runs a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()


def get(client: httpx.AsyncClient, path: str = "/v1/models", **headers: str) -> httpx.Response:
    return run(client.get(path, headers=headers))


def test_an_open_server_wants_its_token() -> None:
    client = guarded("0.0.0.0")
    assert refused(get(client), 401)["code"] == "invalid_api_key" and get(client).headers["www-authenticate"] == "Bearer"
    for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        refused(get(client, Authorization=wrong), 401)
    refused(get(client, "/?token=wrong"), 401)
    refused(get(client, f"/v1/models?token={TOKEN}"), 401)  # in the address of the page alone
    assert get(client, Authorization=f"Bearer {TOKEN}").text == "ok"


def test_the_printed_address_becomes_a_cookie() -> None:
    async def opened() -> tuple[httpx.Response, httpx.Response]:
        async with guarded("0.0.0.0") as client:
            return await client.get(f"/?token={TOKEN}"), await client.get("/page/about")

    first, second = run(opened())
    cookie = first.headers["set-cookie"].lower()
    assert first.status_code == 303 and first.headers["location"] == "/" and TOKEN not in first.headers["location"]
    assert "httponly" in cookie and "samesite=strict" in cookie and second.text == "ok"


def test_an_open_server_is_called_by_its_address_or_a_name_that_it_knows() -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert get(guarded("0.0.0.0"), Host="10.1.2.3:8080", **bearer).text == "ok"
    assert refused(get(guarded("0.0.0.0"), Host="evil.example", **bearer), 403)["code"] == "foreign_host"
    assert get(guarded("0.0.0.0", names=("Shop.example",)), Host="shop.example", **bearer).text == "ok"


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_what_is_reached_from_this_machine_alone_needs_no_token(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize("name", ["http://shop.example", "shop.example:8080", "shop.example/page", "", "two names"])
def test_what_no_host_is_called_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no name of a host; give it without http://, port and path"):
        main(["--allow-host", name])
    ServeConfig(allow_host=("shop.example", "shop", "büro.local", "10.1.2.3", "fe80::1")).check_values("the flags")


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    for token in ("short", "with spaces in it and more", "ünïcödé-and-long-enough"):
        with pytest.raises(UserError, match="the token in the flags must be 16 to 200 letters"):
            main(["--token", token])
