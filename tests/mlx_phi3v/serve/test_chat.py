"""OpenAI's endpoints: the tokens are those of `mlx_phi3v.generate`, on both backends, alone and among other requests."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import AnswerBatch, Generation, LoadedModel, answer_text, generate, load_model
from mlx_phi3v.photo import open_photo
from mlx_phi3v.sampling import Sampling
from mlx_phi3v.serve.engine import Engine, Job
from mlx_phi3v.task import chat_prompt
from tests.helpers.serving import WAIT, Serving, events, png, shown

_LOADED: dict[str, LoadedModel] = {}


def expected(server: Serving, photos: list[bytes], prompt: str | None = None, tokens: int = 24, **sampling: Any) -> Generation:
    """What `mlx_phi3v.generate` answers, in this thread, with a model of its own."""
    model = _LOADED.setdefault(server.config.backend, load_model("tiny", server.config.backend, dtype="float32"))
    num_crops = model.num_crops(None)
    images = tuple(process_image(open_photo(photo), num_crops) for photo in photos)
    maker = ExampleMaker(model.prompts, model.backend.config, model.task, num_crops)
    example = maker.from_images("question", images, None, prompt)
    options: dict[str, Any] = {"max_new_tokens": tokens, "stop_ids": model.prompts.stop_ids, "sampling": Sampling(**sampling)}
    return generate(model.backend, [example], **options)[0]


def text_of(server: Serving, answer: Generation) -> str:
    return answer_text(answer, _LOADED[server.config.backend].prompts)


def content(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_a_photo_alone_gets_the_question_of_the_training(server: Serving) -> None:
    response = server.chat(shown(png()), logprobs=True, top_logprobs=2)
    answer, whole = expected(server, [png()], top_k_logged=2), response.json()
    choice = whole["choices"][0]
    assert content(response) == text_of(server, answer) != ""
    assert choice["finish_reason"] == {"end": "stop", "length": "length"}[answer.finish]
    tokens = choice["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * (len(answer.token_ids) - (answer.finish == "end"))
    # Both sides are rounded to fp32 from sums over the vocabulary: eps times a few dozen.
    assert [token["logprob"] for token in tokens] == pytest.approx(answer.logprobs[: len(tokens)], abs=1e-4)
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode().strip() == content(response)
    usage = whole["usage"]
    assert usage["completion_tokens"] == len(answer.token_ids) and usage["prompt_tokens"] > 100
    assert usage["total_tokens"] == usage["completion_tokens"] + usage["prompt_tokens"]
    assert whole["model"] == "tiny" and whole["object"] == "chat.completion"


def test_a_turn_reads_only_what_is_new(server: Serving) -> None:
    asked = [{"role": "user", "content": shown(png(seed=7), text="What is it?")}]
    first = server.post("/v1/chat/completions", {"messages": asked, "max_tokens": 8})
    prefixes = next(model.prefixes for model in server.models if model.name == first.json()["model"])
    before, said = prefixes.reused, content(first)
    asked += [{"role": "assistant", "content": said}, {"role": "user", "content": "And what does it cost?"}]
    second = server.post("/v1/chat/completions", {"messages": asked, "max_tokens": 12})
    text = f"<|user|>\n<|image_1|>What is it?<|end|><|assistant|>\n{said}<|end|>"
    text += "<|user|>\nAnd what does it cost?<|end|><|assistant|>\n"
    assert content(second) == text_of(server, expected(server, [png(seed=7)], text, tokens=12))
    assert prefixes.reused - before >= first.json()["usage"]["prompt_tokens"] - 1


@pytest.mark.parametrize(
    ("photos", "question"), [([], "What is red?"), ([png()], "What is <|end|> this?"), ([png(), png(90, 200, 3)], "Both?")]
)
def test_a_question_gets_the_tokens_of_generate(server: Serving, photos: list[bytes], question: str) -> None:
    response = server.chat(shown(*photos, text=question) if photos else question)
    assert content(response) == text_of(server, expected(server, photos, chat_prompt(question, len(photos))))


def test_a_conversation_has_the_form_that_is_trained(server: Serving) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": shown(png(), text="What is this?")},
        {"role": "assistant", "content": "A scarf."},
        {"role": "user", "content": shown(png(200, 100, 7), text="And this?")},
    ]
    prompt = (
        "<|system|>\nBe brief.<|end|><|user|>\n<|image_1|>What is this?<|end|><|assistant|>\nA scarf.<|end|>"
        "<|user|>\n<|image_2|>And this?<|end|><|assistant|>\n"
    )
    response = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 24})
    assert content(response) == text_of(server, expected(server, [png(), png(200, 100, 7)], prompt))


def test_a_sampled_answer_follows_from_its_seed(server: Serving) -> None:
    drawn: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "seed": 4}
    assert content(server.chat(shown(png()), **drawn)) == text_of(server, expected(server, [png()], **drawn))
    assert content(server.chat(shown(png()), **drawn | {"seed": 5})) != content(server.chat(shown(png()), **drawn))


def test_a_stream_adds_up_to_the_whole_answer(server: Serving) -> None:
    whole = server.chat(shown(png()), logprobs=True).json()
    pieces = events(server.chat(shown(png()), logprobs=True, stream=True, stream_options={"include_usage": True}))
    *texts, last, usage = pieces
    assert texts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    joined = "".join(piece["choices"][0]["delta"].get("content", "") for piece in texts)
    assert joined == whole["choices"][0]["message"]["content"] and len(texts) > 4
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert len(last["choices"][0]["logprobs"]["content"]) == len(whole["choices"][0]["logprobs"]["content"])
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"} and len({piece["id"] for piece in pieces}) == 1


def test_requests_at_once_get_the_answers_that_each_gets_alone(server: Serving) -> None:
    photos = [png(100 + 40 * i, 160, i) for i in range(4)]
    alone = [text_of(server, expected(server, [photo])) for photo in photos]
    with ThreadPoolExecutor(len(photos)) as pool:
        assert list(pool.map(lambda photo: content(server.chat(shown(photo))), photos)) == alone


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_its_place(mlx_server: Serving, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    gate, submit, step = threading.Event(), Engine.submit, AnswerBatch.step
    jobs: list[Job] = []

    def noted(self: Engine, job: Job) -> Job:
        jobs.append(job)
        return submit(self, job)

    def held(self: AnswerBatch) -> Any:
        gate.wait(WAIT)
        return step(self)

    monkeypatch.setattr(Engine, "submit", noted)
    monkeypatch.setattr(AnswerBatch, "step", held)
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=httpx.Timeout(WAIT, read=0.5)) as client:
        client.post(f"{mlx_server.base}/v1/chat/completions", json={"messages": messages, "stream": stream})
    deadline = time.monotonic() + WAIT  # it is looked once a second
    while not (jobs and jobs[0].row.dropped) and time.monotonic() < deadline:
        time.sleep(0.02)
    gate.set()
    assert jobs[0].row.dropped
    assert content(mlx_server.chat("Hello")) and len(jobs[0].row.answer.token_ids) <= 1


def test_the_longest_answer_is_kept_to(mlx_server: Serving) -> None:
    response = mlx_server.chat(shown(png()), max_tokens=3).json()
    assert response["choices"][0]["finish_reason"] == "length" and response["usage"]["completion_tokens"] == 3


def test_the_models_are_listed_and_chosen_by_name(mlx_server: Serving) -> None:
    listed = mlx_server.client.get("/v1/models").json()
    names = [model["id"] for model in listed["data"]]
    assert listed["object"] == "list" and names == ["tiny", "model"]
    assert mlx_server.client.get("/v1/models/model").json()["id"] == "model"
    assert mlx_server.client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert mlx_server.chat("Hello", model="model").json()["model"] == "model"


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"model": "gpt"}, 404, "model"),
        ({"max_tokens": 10**9}, 400, "max_tokens"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": 2**70}, 400, "seed"),
        ({"n": 2}, 400, "n"),
        ({"stop": ["x"]}, 400, "stop"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, None),
        ({"messages": "x"}, 400, None),
    ],
)
def test_what_is_not_done_is_refused_in_one_sentence(
    mlx_server: Serving, more: dict[str, Any], status: int, param: str | None
) -> None:
    response = mlx_server.chat("x", **more)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"] and len(error["message"]) < 200


def test_values_that_change_nothing_are_taken(mlx_server: Serving) -> None:
    neutral: dict[str, Any] = {"n": 1, "stop": None, "presence_penalty": 0, "frequency_penalty": 0.0, "user": "me", "tools": []}
    assert content(mlx_server.chat("Hello", **neutral)) == content(mlx_server.chat("Hello"))


def test_a_body_that_is_no_json_is_named(mlx_server: Serving) -> None:
    response = mlx_server.client.post("/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_json"
    response = mlx_server.client.post("/v1/chat/completions", content=json.dumps({"messages": []}))
    assert response.status_code == 415
