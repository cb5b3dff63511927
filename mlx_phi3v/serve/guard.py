"""Who may talk to the server: checks of every request before its body is read, and the headers of every response.

A page of another site must not reach a server on this machine. Its requests carry an Origin that is not the server's, and
where a name was made to point here (DNS rebinding) the Host is not one that the server has.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse

from .refusals import Refusal

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Wraps an app. host: the address listened on. names: further names of the server. token: None where none is needed."""

    def __init__(self, app: App, host: str, names: Collection[str] = (), token: str | None = None) -> None:
        self.app, self.host, self.token = app, host, token
        self.names = {"localhost", host.lower(), *(name.lower() for name in names)}
        if not is_loopback(host):
            own = socket.gethostname().lower()
            self.names |= {own, f"{own.partition('.')[0]}.local"}

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """One request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_extra(message["headers"])]
            await send(message)

        if scope["type"] != "http":
            return
        request = Request(scope)
        answer: App | None
        try:
            self._check_names(request)
            answer = self._check_token(request)
        except Refusal as refusal:
            answer = refusal.response()
        await (answer or self.app)(scope, receive, send_guarded)

    def _check_names(self, request: Request) -> None:
        """Raises Refusal for a Host that is not this server's, and for a request that another site's page sends."""
        host = request.headers.get("host", "")
        if not self._is_own(host):
            raise Refusal(403, "the Host of the request is not this server's; start it with --allow-host for that name",
                          code="foreign_host")  # fmt: skip
        origin = request.headers.get("origin")
        foreign = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
        if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            if not foreign and request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate":
                return  # a link to the page
            raise Refusal(403, "the request comes from another site's page", code="foreign_origin")

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:  # an address cannot be made to point elsewhere, as a name can
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)

    def _check_token(self, request: Request) -> RedirectResponse | None:
        """The way to the page for who opens it with the token. Raises Refusal where the token is missing or wrong."""
        if self.token is None:
            return None
        given = parse_qs(request.url.query).get("token", [""])[0]
        if request.url.path == "/" and request.method == "GET" and self._is_token(given):
            answer = RedirectResponse("/", 303)  # so that it stays in no history
            answer.set_cookie(_cookie_name(request), self.token, httponly=True, samesite="strict", path="/")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_token(_cookie(request)):
            return None
        raise Refusal(
            401, "the token is missing or wrong; open the address that the command printed, or send Authorization: Bearer",
            code="invalid_api_key",
        )  # fmt: skip

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def _cookie_name(request: Request) -> str:
    """With the port: browsers share the cookies of all servers of a machine."""
    return f"mlx_phi3v_token_{(request.scope.get('server') or (None, 0))[1]}"


def _cookie(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_cookie_name(request))
    except CookieError:
        return ""
    return found.value if found else ""


def _extra(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that a response lacks."""
    there = {name.lower() for name, _ in headers}
    wanted = _HEADERS | {"Content-Security-Policy": _NO_PAGE}
    return [(name.encode(), value.encode()) for name, value in wanted.items() if name.lower().encode() not in there]
