"""mlx-vlm's commands and LM Studio's engine, on a converted folder: the answers of mlx_phi3v.generate."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_phi3v.decoding import load_model
from mlx_phi3v.question import make_question, read_photos
from mlx_phi3v.settings import GenerateConfig
from tests.mlx_phi3v.model_file.test_mlx_vlm import converted, our_ids, pictures

pytest.importorskip("mlx_vlm")
pytestmark = pytest.mark.numeric
QUESTION = "What is shown in this image?"
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SECONDS = 120  # for a process to start or answer, on a machine that is busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted("tiny", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures(tmp_path_factory.mktemp("photos"))


def our_texts(folder: Path, asked: Sequence[tuple[str, list[Path]]], tokens: int = 24) -> list[str]:
    """The answers of mlx_phi3v.generate as text."""
    prompts = load_model(str(folder), "mlx", None, "float32").prompts
    return [prompts.decode(ids) for ids in our_ids(folder, asked, tokens)]


def test_the_ids_here_are_those_of_the_command(folder: Path, photos: list[Path]) -> None:
    """`our_ids` is what the other tests compare with."""
    from mlx_phi3v.decoding import generate

    model = load_model(str(folder), "mlx", None, "float32")
    config = GenerateConfig(image=(str(photos[0]),), question=QUESTION)
    example = make_question(config, model, read_photos(config))
    [answer] = generate(model.backend, [example], max_new_tokens=24, stop_ids=model.prompts.stop_ids)
    assert [answer.token_ids] == our_ids(folder, [(QUESTION, photos[:1])], 24)


def test_mlx_vlm_generate_in_a_process_of_its_own(folder: Path, photos: list[Path], tmp_path: Path) -> None:
    """Away from this checkout, so that nothing of it could be imported."""
    command = [sys.executable, "-m", "mlx_vlm.generate", "--model", str(folder), "--image", *map(str, photos[:2])]
    command += ["--prompt", "Which is dearer?", "--max-tokens", "24", "--temperature", "0"]
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=tmp_path)
    [expected] = our_texts(folder, [("Which is dearer?", photos[:2])])
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout, done.stdout


@pytest.mark.slow
def test_mlx_vlm_chat_changes_the_photo(folder: Path, photos: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlx_vlm.chat", "--model", str(folder), "--temperature", "0", "--max-tokens", "24"]
    typed = "".join(f"/image {photo}\n{QUESTION}\n" for photo in photos[:2]) + "/exit\n"
    environment = ENVIRONMENT | {"COLUMNS": "400"}
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=tmp_path)
    [first, alone] = our_texts(folder, [(QUESTION, [photo]) for photo in photos[:2]])
    answers = [line.partition("Assistant: ")[2].strip() for line in done.stdout.splitlines() if "Assistant: " in line]
    assert len(answers) == 2 and answers[0] == first, done.stdout
    model = load_model(str(folder), "mlx", None, "float32")
    asked = f"<|user|>\n{QUESTION}<|end|><|assistant|>\n{first}<|end|><|user|>\n<|image_1|>{QUESTION}<|end|><|assistant|>\n"
    config = GenerateConfig(image=(str(photos[1]),), prompt=asked)
    assert answers[1] == answer_of(model, config) and alone


def answer_of(model: Any, config: GenerateConfig) -> str:
    from mlx_phi3v.decoding import answer_text, generate

    example = make_question(config, model, read_photos(config))
    [answer] = generate(model.backend, [example], max_new_tokens=24, stop_ids=model.prompts.stop_ids)
    return answer_text(answer, model.prompts)


class Server:
    """mlx_vlm.server on a free port."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.model = str(folder)
        self.log = log
        command = [
            sys.executable,
            "-m",
            "mlx_vlm.server",
            "--model",
            self.model,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=log.parent)

    def wait(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-2000:])

    def ask(self, messages: list[dict[str, Any]], *, stream: bool = False, tokens: int = 24) -> str:
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": stream}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        raw = urllib.request.urlopen(request, timeout=SECONDS).read().decode()
        if not stream:
            return str(json.loads(raw)["choices"][0]["message"]["content"] or "").strip()
        events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]).strip()


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(folder, tmp_path_factory.mktemp("server") / "log")
    try:
        started.wait()
        yield started
    finally:
        started.process.terminate()
        started.process.wait(30)


def message(question: str, photos: Sequence[Path], *, text_first: bool = False) -> dict[str, Any]:
    """OpenAI's form of a question about photos."""
    data = [f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}" for photo in photos]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in data]
    text: list[dict[str, Any]] = [{"type": "text", "text": question}]
    return {"role": "user", "content": text + parts if text_first else parts + text}


@pytest.mark.slow
def test_mlx_vlm_server_answers_one_after_the_other(server: Server, folder: Path, photos: list[Path]) -> None:
    one, two, none = our_texts(folder, [(QUESTION, photos[:1]), ("Which?", photos[:2]), ("Hm?", [])])
    assert server.ask([message(QUESTION, photos[:1])]) == one
    assert server.ask([message(QUESTION, photos[:1])], stream=True) == one
    assert server.ask([message(QUESTION, photos[:1], text_first=True)]) == one
    assert server.ask([message("Which?", photos[:2])]) == two
    assert server.ask([message("Hm?", [])]) == none
    turns = [message(QUESTION, photos[:1]), {"role": "assistant", "content": "A dress."}, message(QUESTION, photos[1:2])]
    asked = f"<|user|>\n<|image_1|>{QUESTION}<|end|><|assistant|>\nA dress.<|end|>"
    asked += f"<|user|>\n<|image_2|>{QUESTION}<|end|><|assistant|>\n"
    config = GenerateConfig(image=tuple(map(str, photos[:2])), prompt=asked)
    assert server.ask(turns) == answer_of(load_model(str(folder), "mlx", None, "float32"), config)


@pytest.mark.slow
def test_mlx_vlm_server_answers_many_at_once(server: Server, folder: Path, photos: list[Path]) -> None:
    asked = [(QUESTION, [photo]) for photo in photos] + [
        ("Which?", photos[:2]),
        ("Hm?", []),
        ("What does it cost?", photos[2:3]),
    ]
    expected = our_texts(folder, asked)
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: server.ask([message(*one)], stream=len(one[1]) == 2), asked * 2))
    assert answers == expected * 2


@pytest.mark.parametrize("images", [0, 1, 2])
def test_the_calls_of_lm_studio_s_engine(folder: Path, photos: list[Path], images: int) -> None:
    """By a test double of its calls; see tests/helpers/engine.py."""
    engine_module = pytest.importorskip("tests.helpers.engine")
    engine = engine_module.Engine(folder)
    parts = [{"type": "image"}] * images + [{"type": "text", "text": "Which is dearer?"}]
    prompt = engine.processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    pixels = [Image.open(photo).convert("RGB") for photo in photos[:images]]
    assert [engine.ask(prompt, pixels, 24)] == our_ids(folder, [("Which is dearer?", photos[:images])], 24)


@pytest.mark.slow
def test_lm_studio_s_engine_itself(folder: Path, photos: list[Path]) -> None:
    """Where it is installed: it is on no registry."""
    engine = pytest.importorskip("mlx_engine.generate")
    kit = engine.load_model(folder, enable_disk_cache=False)
    try:
        for question, shown in ((QUESTION, photos[:1]), ("Which is dearer?", photos[:2]), ("Hm?", [])):
            parts = [{"type": "image"}] * len(shown) + [{"type": "text", "text": question}]
            text = kit.tokenizer.apply_chat_template(
                [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
            )
            data = [base64.b64encode(photo.read_bytes()).decode() for photo in shown]
            steps = engine.create_generator(
                kit, engine.tokenize(kit, text), images_b64=data, max_tokens=24, temp=0.0, request_id=question
            )
            assert [[token.id for step in steps for token in step.tokens]] == our_ids(folder, [(question, shown)], 24)
    finally:
        kit.shutdown()
