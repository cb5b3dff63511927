"""Start several ranks of a training on this machine, as `mlx.launch` and torchrun do, but on ports that are free."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .paths import ROOT

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # gloo otherwise asks the resolver for this machine's own name
_TRIES = 3  # a port may be taken between the moment that it is found free and its use
_WAIT = 600.0


Ended = subprocess.CompletedProcess[str]


def launch(backend: str, arguments: Sequence[Sequence[str]], folder: Path, *, hangs: int | None = None) -> list[Ended]:
    """Run `python ARGUMENTS` as one rank for each item: how they ended. `folder` takes a file that names the ports.

    hangs: a rank that does not end, and is killed once all others have.
    """
    for _ in range(_TRIES):
        ended = _launch(backend, arguments, folder, hangs)
        if not any(words in one.stderr for one in ended for words in ("already in use", "EADDRINUSE", "Couldn't bind")):
            break
    return ended


def _launch(backend: str, arguments: Sequence[Sequence[str]], folder: Path, hangs: int | None) -> list[Ended]:
    ranks = len(arguments)
    ports = _free_ports(ranks)
    (folder / "hosts.json").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    bare = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MLX_RANK", "MLX_HOSTFILE")}
    common = bare | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(ranks):
        if backend == "mlx":
            own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(folder / "hosts.json")}
        else:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(ports[0]), "GLOO_SOCKET_IFNAME": LOOPBACK}  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments[rank]], env=common | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        ended = {}
        for rank in sorted(range(ranks), key=lambda rank: rank == hangs):
            if rank == hangs:
                processes[rank].kill()
            said = processes[rank].communicate(timeout=_WAIT)
            ended[rank] = subprocess.CompletedProcess(arguments[rank], processes[rank].returncode, *said)
        return [ended[rank] for rank in range(ranks)]
    finally:
        for process in processes:
            process.kill()


def ports_in_a_row(count: int) -> int:
    """The first of so many free ports, for `mlx.launch`, whose own one is the same for everybody."""
    while True:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            sockets[0].bind(("127.0.0.1", 0))
            first: int = sockets[0].getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):  # the next one is taken, or there is none
                for k in range(1, count):
                    sockets[k].bind(("127.0.0.1", first + k))
                return first


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
