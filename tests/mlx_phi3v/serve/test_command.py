"""The command: where it listens, what it prints, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import socket
import sys
import uuid
from typing import Any

import httpx
import pytest

from mlx_phi3v.errors import UserError
from mlx_phi3v.serve.__main__ import main
from mlx_phi3v.serve.models import _names
from mlx_phi3v.serve.server import _NoTraces, announce, listening
from mlx_phi3v.serve.settings import ServeConfig
from tests.helpers.serving import WAIT
from tests.test_interrupts import marked, start


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_amid_an_answer(number: signal.Signals) -> None:
    pytest.importorskip("mlx")
    mark = uuid.uuid4().hex
    running = start(mark, "-m", "mlx_phi3v.serve", "--port", 0, "--json", "--max-new-tokens", 4000)
    assert running.stdout is not None
    said = json.loads(running.stdout.readline())
    assert said["event"] == "serving" and said["token"] is None
    # Drawn at a high temperature, it goes on until its longest.
    asked = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 4000, "temperature": 50, "seed": 1}
    with httpx.stream("POST", f"{said['api']}/chat/completions", json=asked, timeout=WAIT) as response:
        lines = response.iter_lines()
        while '"content"' not in (line := next(lines)) or '"role"' in line:
            pass
        running.send_signal(number)
        with pytest.raises((StopIteration, httpx.HTTPError)):
            while True:
                next(lines)
    _, errors = running.communicate(timeout=WAIT)
    assert running.returncode == 128 + number and errors == "interrupted\n" and not marked(mark)


def test_an_address_that_cannot_be_had_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*choose another --port or --host"):
            main(["--port", str(port), "--model", "no-such-folder"])

    def unknown(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match='--host "box" is no address of this machine'):
        main(["--host", "box", "--port", "0", "--model", "no-such-folder"])


@pytest.mark.parametrize("host", ["a" * 300, "x..y", ""])
def test_a_host_that_is_no_name_is_one_sentence(host: str) -> None:
    with pytest.raises(UserError, match=rf'--host "{host[:20]}.* is no address of this machine \(.*; give one that it has'):
        main(["--host", host, "--port", "0", "--model", "no-such-folder"])


def test_too_many_connections_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    traces = _NoTraces()
    full = "socket.accept() out of system resource"
    records = [logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), None) for text in (f"{full}\n3", full, "another")]
    assert [traces.filter(record) for record in records] == [False, False, True]
    assert capsys.readouterr().err.count("more connections are open than this process may have") == 1


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else find(name, *rest))
    with pytest.raises(UserError, match=r"serving needs uvicorn, .*pip install 'mlx-phi3v\[serve\]'"):
        main([])


@pytest.mark.parametrize("as_json", [False, True])
def test_the_token_is_printed_once(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    config = ServeConfig(host="127.0.0.1", port=0, json=as_json)
    with listening(config) as listener:
        port = listener.getsockname()[1]
        announce(config, "the-token-of-this-run", listener)
    said = capsys.readouterr().out
    if as_json:
        printed: dict[str, Any] = json.loads(said)
        assert printed["page"] == f"http://127.0.0.1:{port}/?token=the-token-of-this-run"
        assert printed["api"] == f"http://127.0.0.1:{port}/v1"
    else:
        assert said.count("the-token-of-this-run") == 1 and f"http://127.0.0.1:{port}/v1" in said


def test_each_model_has_a_name_of_its_own() -> None:
    assert _names([("tiny", None), ("tiny", "runs/mine"), ("a/tiny", None), ("b/tiny/", None)]) == [
        "tiny", "mine", "tiny-2", "tiny-3",
    ]  # fmt: skip
