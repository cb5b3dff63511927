"""One question to a model: its photos, its prompt, and the answer as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .batches import Example, ExampleMaker
from .crops import process_image
from .decoding import LoadedModel, Sampling, StreamedText, answer_text, generate, load_model
from .errors import UserError
from .photo import Photo
from .probe.probe import verify_folder
from .probe.probe_file import Gap
from .progress import note, result, say
from .prompts import PromptProcessor
from .settings import GenerateConfig
from .task import chat_prompt
from .text import printable


class TokenStream:
    """Prints an answer as its tokens come, whole characters only. Pass it as `generate`'s on_token."""

    def __init__(self, prompts: PromptProcessor) -> None:
        self.text = StreamedText(prompts)

    def __call__(self, row: int, token: int) -> None:
        """Print what the token adds."""
        sys.stdout.write(printable(self.text.add(token), lines=True))
        sys.stdout.flush()

    def finish(self, text: str) -> None:
        """Print the rest of the whole text."""
        print(printable(self.text.rest(text), lines=True))


def read_photos(config: GenerateConfig) -> list[Photo]:
    """The photos asked about. Raises UserError where one cannot be used, or where there is nothing to ask."""
    if config.prompt and config.question:
        raise UserError("give --prompt or --question, not both")
    if not (config.image or config.prompt or config.question or config.verify):
        raise UserError("nothing to ask about: give --image photo.jpg, or --prompt/--question for a question without a photo")
    photos = [Photo.read(Path(path).expanduser()) for path in config.image]
    for photo in photos:
        _ = photo.rgb  # decoded now, so that a corrupt photo is found before the model is loaded
    return photos


def make_question(config: GenerateConfig, model: LoadedModel, photos: Sequence[Photo]) -> Example:
    """The prompt as the model takes it: the flags' own, else that of the task the model was trained on."""
    num_crops = model.num_crops(config.num_crops)
    images = tuple(process_image(photo.rgb, num_crops) for photo in photos)
    maker = ExampleMaker(model.prompts, model.backend.config, model.task, num_crops)
    prompt = chat_prompt(config.question, len(images)) if config.question else config.prompt
    return maker.from_images("question", images, None, prompt)


def _verified(model: LoadedModel) -> Gap:
    """The gap to the folder's probe, said in one line. Raises UserError where rounding does not explain it."""
    gap = verify_folder(model)
    if not gap.applied:
        raise UserError(f"{gap}: {model.folder} does not compute here what it did when it was written; get it again")
    note(str(gap))
    return gap


def ask(config: GenerateConfig) -> None:
    """Load the model, ask, and print the answer. Raises UserError where model, adapter or photos do not serve."""
    photos = read_photos(config)
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    started = time.perf_counter()
    options = {"kv_bits": config.kv_bits, "compiled": config.compile}
    model = load_model(config.model, config.backend, config.adapter, config.dtype, **options)
    for difference in model.differences(config.num_crops):
        note(difference)
    if config.verify:
        gap = _verified(model)
        if not (config.image or config.prompt or config.question):
            result(config.json, **asdict(gap))
            return
    example = make_question(config, model, photos)
    loaded = time.perf_counter()
    stream = None if config.json else TokenStream(model.prompts)
    sampling = Sampling(config.temperature, config.top_p, config.seed, top_k_logged=5 if config.json else 0)
    [answer] = generate(
        model.backend,
        [example],
        max_new_tokens=config.max_new_tokens,
        stop_ids=model.prompts.stop_ids,
        sampling=sampling,
        on_token=stream,
    )
    text = answer_text(answer, model.prompts)
    if stream:
        stream.finish(text)
    seconds = time.perf_counter() - loaded
    say(
        f"{len(answer.token_ids)} tokens in {seconds:.1f} s (loading {loaded - started:.1f} s), ended by {answer.finish}",
        as_json=config.json,
    )
    parsed = model.task.parse(text, truncated=answer.finish != "end")
    fields = {name: asdict(item) for name, item in parsed.items()}
    result(config.json, text=text, fields=fields, **asdict(answer) | {"num_crops": model.num_crops(config.num_crops)})
