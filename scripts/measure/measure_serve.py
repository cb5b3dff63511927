"""Load test of `mlx_phi3v.serve` on this machine: so many clients at once, against answering the same photos in batches.

    python scripts/measure/measure_serve.py --backend mlx
    python scripts/measure/measure_serve.py --backend torch --clients 32 --requests 64 --rounds 5

The server is a process of its own, and each client a thread that sends its next photo when it has the answer to the last. The
batches are those of `eval.predict`, which photos join that were prepared meanwhile, in another process. Both take turns, as the
machine may be busy. Every answer must be that of the batches. It prints one JSON line, of medians over the rounds: `ratio` is
requests per second over rows per second, `cpu_ratio` the processor seconds of a row over those of a request.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from mlx_phi3v.commands import child_command, child_environment

_WAIT = 600.0  # seconds for one answer


def photos(count: int) -> list[bytes]:
    """JPEG files of three shapes."""
    random, made = np.random.default_rng(0), []
    for number in range(count):
        size = ((640, 480), (480, 640), (800, 300))[number % 3]
        picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        made.append(buffer.getvalue())
    return made


def in_batches(options: argparse.Namespace) -> None:
    """Answer all photos in batches for each line of stdin: prints the seconds and the answers."""
    from mlx_phi3v.batches import ExampleMaker
    from mlx_phi3v.crops import process_image
    from mlx_phi3v.decoding import answer_text, generate, load_model
    from mlx_phi3v.photo import open_photo
    from mlx_phi3v.prefetch import prefetch

    model = load_model(options.model, options.backend, options.adapter)
    num_crops = model.num_crops(None)
    maker = ExampleMaker(model.prompts, model.backend.config, model.task, num_crops)

    def prepare(data: bytes) -> Any:
        return maker.from_images("question", (process_image(open_photo(data), num_crops),), None)

    def answered(files: list[bytes]) -> list[str]:
        stops, size = model.prompts.stop_ids, options.batch_size
        with closing(prefetch(prepare, files, ahead=size)) as examples:
            found = generate(model.backend, examples, max_new_tokens=options.max_tokens, stop_ids=stops, batch_size=size)
        return [answer_text(answer, model.prompts) for answer in found]

    every = photos(options.requests)
    answered(every[: options.batch_size])  # what the first batch alone costs
    print("ready", flush=True)
    for _ in sys.stdin:
        started, processor = time.perf_counter(), time.process_time()
        texts = answered(every)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        print(json.dumps({"seconds": seconds, "cpu": processor, "texts": texts}), flush=True)


class Load:
    """The clients: each takes the next photo when it has its answer."""

    def __init__(self, api: str, every: list[bytes], max_tokens: int) -> None:
        self.api, self.max_tokens = api, max_tokens
        self.urls = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in every]
        self.left = iter(range(len(every)))
        self.texts: dict[int, str] = {}
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.lock = threading.Lock()

    def client(self) -> None:
        """One client, until no photo is left."""
        with httpx.Client(timeout=_WAIT) as client:
            while (number := self._next()) is not None:
                content = [{"type": "image_url", "image_url": {"url": self.urls[number]}}]
                asked = {"messages": [{"role": "user", "content": content}], "max_tokens": self.max_tokens}
                began = time.perf_counter()
                try:
                    response = client.post(f"{self.api}/chat/completions", json=asked)
                    text = response.raise_for_status().json()["choices"][0]["message"]["content"]
                except (httpx.HTTPError, KeyError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                self.seconds.append(time.perf_counter() - began)
                self.texts[number] = text

    def _next(self) -> int | None:
        with self.lock:
            return next(self.left, None)

    def run(self, clients: int) -> float:
        """Seconds until all photos are answered."""
        threads = [threading.Thread(target=self.client) for _ in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started


@contextmanager
def started(line: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line that it prints."""
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(), text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.terminate()


def processor_seconds(number: int) -> float:
    """What a process has taken of all cores."""
    times = psutil.Process(number).cpu_times()
    return float(times.user + times.system)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    flags = ["--model", options.model, "--backend", options.backend, "--batch-size", str(options.batch_size), "--port", "0"]
    flags += ["--json", *(["--adapter", options.adapter] if options.adapter else [])]
    every, rounds = photos(options.requests), []
    waited: list[float] = []
    failures = other = 0
    with (
        started([sys.executable, __file__, *sys.argv[1:], "--batches"]) as (batches, _),
        started([*child_command("mlx_phi3v.serve"), *flags]) as (server, said),
    ):
        assert batches.stdin is not None and batches.stdout is not None
        api = json.loads(said)["api"]
        Load(api, every[: options.batch_size], options.max_tokens).run(options.clients)
        for _ in range(options.rounds):
            print("go", file=batches.stdin, flush=True)
            alone = json.loads(batches.stdout.readline())
            load, before = Load(api, every, options.max_tokens), processor_seconds(server.pid)
            seconds = load.run(options.clients)
            rounds.append((alone["seconds"], alone["cpu"], seconds, processor_seconds(server.pid) - before))
            failures, waited = failures + len(load.failures), waited + load.seconds
            other += sum(load.texts.get(i) != text for i, text in enumerate(alone["texts"]))
    figures, waited = np.array(rounds), sorted(waited)
    count = options.requests
    return {
        "backend": options.backend, "clients": options.clients, "requests": count, "rounds": options.rounds,
        "failures": failures, "other_answers": other,
        "batches_per_s": round(float(np.median(count / figures[:, 0])), 2),
        "served_per_s": round(float(np.median(count / figures[:, 2])), 2),
        "ratio": round(float(np.median(figures[:, 0] / figures[:, 2])), 2),
        "cpu_ratio": round(float(np.median(figures[:, 1] / figures[:, 3])), 2),
        "median_s": round(waited[len(waited) // 2], 2), "p95_s": round(waited[int(0.95 * len(waited))], 2),
    }  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--adapter")
    parser.add_argument("--backend", default="mlx")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--batches", action="store_true", help="the batches alone, in this process")
    options = parser.parse_args()
    if options.batches:
        return in_batches(options)
    result = measure(options)
    print(json.dumps(result), flush=True)
    if result["failures"] or result["other_answers"]:
        sys.exit("the server failed, or answered otherwise than the batches")


if __name__ == "__main__":
    main()
