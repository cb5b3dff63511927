"""How a request is refused: a status and one sentence, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from ..errors import shown

_TYPES = {401: "authentication_error", 403: "permission_error", 503: "server_busy"}


class Refusal(Exception):
    """A request that is not answered. param: the key it is about. code: a fixed word for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": shown(str(self)), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(self.status)
        return JSONResponse(self.body(), self.status, headers)
