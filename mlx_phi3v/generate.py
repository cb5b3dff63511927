"""Ask the model about a photo, greedily or by sampling, streamed as it answers.

    python -m mlx_phi3v.generate --image photo.jpg --model tiny --adapter runs/mine
    python -m mlx_phi3v.generate --image photo.jpg --question "What is this?"

Without --question or --prompt it asks for a product's title, category and price.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import cli
from .backend import BACKENDS, DTYPES, default_backend
from .batches import ExampleMaker
from .cli import option
from .crops import process_image
from .decoding import Sampling, answer_text, generate, load_model
from .errors import UserError, run_cli
from .photo import open_photo
from .progress import result, say
from .task import Task


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one question."""

    image: tuple[str, ...] = option((), help="photo file; several for several <|image_k|> tags")
    prompt: str | None = option(None, help="full prompt with <|image_1|> tags; by default the product task's")
    question: str | None = option(None, help="plain question about the photo, put into the chat template")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)")
    adapter: str | None = option(None, help="LoRA adapter or training run")
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)
    num_crops: int | None = option(None, help="most crops a photo is cut into; by default the model's own")
    max_new_tokens: int = option(128, help="longest answer, in tokens")
    temperature: float = option(0.0, help="0 is greedy; above it samples")
    top_p: float = option(1.0, help="nucleus of sampling")
    seed: int = option(0, help="seed of sampling")
    json: bool = option(False, help="one JSON line with text, fields, ids and log-probabilities")


def chat_prompt(question: str, images: int) -> str:
    """The published chat template for one user turn."""
    tags = "".join(f"<|image_{k}|>\n" for k in range(1, images + 1))
    return f"<|user|>\n{tags}{question}<|end|>\n<|assistant|>\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(GenerateConfig, "python -m mlx_phi3v.generate", __doc__ or "", argv)
    if config.prompt and config.question:
        raise UserError("give --prompt or --question, not both")
    task = Task()
    if not config.image and not config.prompt and not config.question:
        raise UserError("nothing to ask about: give --image photo.jpg, or --prompt/--question for a question without a photo")
    photos = [open_photo(Path(path).expanduser()) for path in config.image]
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    started = time.perf_counter()
    backend, prompts = load_model(config.model, config.backend, config.adapter, config.dtype)
    images = tuple(process_image(photo, config.num_crops or backend.config.num_crops) for photo in photos)
    maker = ExampleMaker(prompts, backend.config, task, config.num_crops or backend.config.num_crops)
    prompt = chat_prompt(config.question, len(images)) if config.question else config.prompt
    example = maker.from_images("question", images, None, prompt)
    loaded = time.perf_counter()
    shown: list[int] = []
    printed = ""

    def stream(_: int, token: int) -> None:
        nonlocal printed
        shown.append(token)
        text = prompts.decode(shown)
        if not config.json and text.startswith(printed) and not text.endswith("\ufffd"):
            sys.stdout.write(text[len(printed) :])
            sys.stdout.flush()
            printed = text

    sampling = Sampling(config.temperature, config.top_p, config.seed, top_k_logged=5 if config.json else 0)
    [answer] = generate(
        backend, [example], max_new_tokens=config.max_new_tokens, stop_ids=prompts.stop_ids, sampling=sampling, on_token=stream
    )
    text = answer_text(answer, prompts)
    if not config.json:
        print(text[len(printed) :] if text.startswith(printed) else "")
        seconds = time.perf_counter() - loaded
        say(f"{len(answer.token_ids)} tokens in {seconds:.1f} s (loading {loaded - started:.1f} s), ended by {answer.finish}")
    result(
        config.json,
        text=text,
        fields={k: v.__dict__ for k, v in task.parse(text, truncated=answer.finish != "end").items()},
        finish=answer.finish,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        top_k=answer.top_k,
    )
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
