"""The running server: HTTP in a thread of its own, the models in the thread that called."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..documents import shown
from ..errors import UserError
from ..progress import note
from .app import Service, make_app
from .corrections import Corrections
from .engine import Engine
from .guard import Guard, is_loopback
from .models import ServedModel, load_models
from .page_routes import add_page
from .settings import ServeConfig

_GRACE_SECONDS = 3  # what open requests have to end in
_JOIN_SECONDS = 10.0


def serve(config: ServeConfig, token: str | None) -> None:
    """Load the models and answer until a signal comes. Raises UserError where a model or the address cannot be used."""
    with listening(config) as listener:
        models = load_models(config)
        engine = Engine(config.batch_size)
        with answering(config, token, models, engine, listener):
            announce(config, token, listener)
            engine.run()


@contextmanager
def listening(config: ServeConfig) -> Iterator[socket.socket]:
    """A socket at the address, before anything is loaded. Raises UserError where it cannot be had."""
    try:
        [family, kind, protocol, _, address] = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the second for what cannot be a name at all
        said = getattr(error, "strerror", None) or "no such name"
        raise UserError(f"--host {shown(config.host)} is no address of this machine ({said}); give one that it has") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise UserError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror}); choose another --port or --host"
            ) from None
        yield listener


class _NoTraces(logging.Filter):
    """asyncio logs a traceback, again and again, while a process may open no further connection: one line is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """False for such a record."""
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        if not self._said:
            note("more connections are open than this process may have, so others wait; raise the limit with ulimit -n")
        self._said = True
        return False


@contextmanager
def answering(
    config: ServeConfig, token: str | None, models: list[ServedModel], engine: Engine, listener: socket.socket
) -> Iterator[None]:
    """Take requests while the block runs. They are answered by whoever runs the engine."""
    service = Service(models, engine, config.max_new_tokens, int(config.max_body_mb * 1e6))
    app = make_app(service)
    add_page(app, service, Corrections(config.corrections) if config.corrections else None)
    options: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "lifespan": "off",
        "ws": "none",
        "http": "h11",
        "log_level": "error",
    }
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(app, config.host, config.allow_host, token), server_header=False, proxy_headers=False,
            loop="asyncio", timeout_graceful_shutdown=_GRACE_SECONDS, **options,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    traces = _NoTraces()
    logging.getLogger("asyncio").addFilter(traces)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise UserError(f"the server on {config.host}:{config.port} did not start; choose another --port or --host")
            time.sleep(0.01)
        yield
    finally:
        engine.stop()
        server.should_exit = True
        thread.join(_JOIN_SECONDS)
        service.pool.shutdown(wait=False, cancel_futures=True)
        logging.getLogger("asyncio").removeFilter(traces)


def announce(config: ServeConfig, token: str | None, listener: socket.socket) -> None:
    """Print the address, once, with the token."""
    port = listener.getsockname()[1]
    host = config.host if config.host not in ("0.0.0.0", "::") else _own_address()
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    address = base if token is None else f"{base}?token={token}"
    if config.json:
        print(json.dumps({"event": "serving", "page": address, "api": f"{base}v1", "token": token}), flush=True)
        return
    print(f"page: {address}\nAPI:  {base}v1{'' if token is None else '  (the token is its API key)'}", flush=True)
    if not is_loopback(config.host):
        print("Others can reach it. The connection is not encrypted: use it in a network that you trust.", flush=True)


def _own_address() -> str:
    """The address that others in the network reach this machine by; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of no machine (RFC 5737)
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
