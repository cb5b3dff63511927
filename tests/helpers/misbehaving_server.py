"""A picture server on loopback that misbehaves on request and counts what it is asked."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def photo_bytes(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    """A picture that differs from seed to seed: smooth colours, so that JPEG leaves it as it is."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, kind, quality=90)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """The first word of the path is what goes wrong: /ok/7.jpg, /twice500/1.jpg, /stall/..."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """The tests' output stays readable."""

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests[self.path] += 1
            count = self.server.requests[self.path]
            self.server.times.append((time.monotonic(), self.path))
        name = self.path.strip("/").split("/")[0]
        with contextlib.suppress(OSError):
            getattr(self, f"_{name}", self._notfound)(count)

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _seed(self) -> int:
        return int("".join(c for c in self.path.rpartition("/")[2] if c.isdigit()) or 0)

    def _ok(self, count: int) -> None:
        with self.server.lock:
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
            if self.server.most_inside >= self.server.together:
                self.server.met.set()
        self.server.met.wait(60)
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.inside -= 1
        self._send(photo_bytes(self._seed()), Content_Type="image/jpeg")

    def _notfound(self, count: int) -> None:
        self._send(b"no", 404)

    def _forever500(self, count: int) -> None:
        self._send(b"no", 500)

    def _twice500(self, count: int) -> None:
        self._send(b"no", 500) if count <= 2 else self._ok(count)

    def _later(self, count: int) -> None:
        self._send(b"no", 429, Retry_After="1") if count == 1 else self._ok(count)

    def _muchlater(self, count: int) -> None:
        self._send(b"no", 503, Retry_After="86400")

    def _stall(self, count: int) -> None:
        self.server.release.wait(60)

    def _drip(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(200):
            if self.server.release.wait(0.05):
                return
            self.wfile.write(b"x")
            self.wfile.flush()

    def _half(self, count: int) -> None:
        body = photo_bytes(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _cut(self, count: int) -> None:
        body = photo_bytes(2, (320, 240))  # a picture cut off at its source: HTTP sees nothing wrong
        self._send(body[: len(body) // 2])

    def _html(self, count: int) -> None:
        self._send(b"<html><body>Not here</body></html>", Content_Type="image/jpeg")

    def _announced2gb(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(2 << 30))
        self.end_headers()
        self._pour()

    def _endless2gb(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._pour(chunked=True)

    def _pour(self, chunked: bool = False) -> None:
        piece = bytes(1 << 16)
        for _ in range((2 << 30) // len(piece)):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            with self.server.lock:
                self.server.poured += len(piece)

    def _loop(self, count: int) -> None:
        self._send(b"", 302, Location=f"/loop/{count}")

    def _moved(self, count: int) -> None:
        self._send(b"", 301, Location=f"/ok/{self._seed()}.jpg")

    def _to(self, count: int) -> None:
        target = self.path.removeprefix("/to/")
        self._send(b"", 302, Location=target)


class Server(ThreadingHTTPServer):
    """Counts requests by path; `inside` are those being answered."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[str] = Counter()
        self.times: list[tuple[float, str]] = []
        self.lock = threading.Lock()
        self.release = threading.Event()
        self.delay = 0.0
        self.inside = 0
        self.together = 0  # the first requests are held until so many are inside at once
        self.met = threading.Event()
        self.most_inside = 0
        self.poured = 0

    @property
    def host(self) -> str:
        """host:port, as --allow-hosts takes it."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server for the length of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
