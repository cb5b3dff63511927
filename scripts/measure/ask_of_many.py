"""A small model that answers a question about one of hundreds of photos in one prompt, up to 131,072 positions.

    python scripts/measure/ask_of_many.py train --folder WHERE [--steps 400]
    python scripts/measure/ask_of_many.py ask --folder WHERE --backend torch --tokens 16384 131072 --questions 4

The prompt shows photos of the built-in catalogue, each followed by a tag of one word, and ends with one of the tags; the answer
is that product's category. So the category must be seen in a photo (by the built-in model's image side, frozen) and found by
its tag, up to 131,072 positions back. `train` tunes all weights of a decoder of three layers on prompts of up to `--longest`
photos (12 have about 1,050 tokens), half of them with the RoPE factors of long texts; `ask` asks of as many photos as fit,
which the training never saw, about places all over the prompt, which is read once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure_contexts import peak_gb
from narrow_model import POSITIONS, write_narrow

from data.sample.brands import get_brand
from data.sample.products import draw_product
from mlx_phi3v.answer_batch import AnswerBatch, RowState
from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.crops import ProcessedImage, image_token_count, process_image
from mlx_phi3v.photo import open_photo
from mlx_phi3v.prefix_cache import PrefixCache
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.sampling import Sampling

SEED, BOS = 5, 1
WORDS = 2048  # token ids: at 131,072 positions each of 1,541 photos has a tag of its own
THETA = 1e8  # of RoPE: the slower half of its frequencies turn by less than a fifteenth within 131,072 positions
SLOW = 0.5  # share of the frequencies that the last layer leaves out
SHARP = 12.0  # how much larger its queries are than its keys
SHARPER = 4.0  # and how much larger still once it is trained, as far more photos are asked about than were seen in training
CACHE_BYTES = 1 << 30  # of what has been read: twice what 131,072 tokens take
UNSEEN = 100_000  # number of the first product that is only asked about


def say(**values: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(values), flush=True)


class Album:
    """Photos with their features, and the tokens that stand for tags and categories."""

    def __init__(self, backend: Backend, first: int, count: int, num_crops: int) -> None:
        products = [draw_product(get_brand("sample"), SEED, first + i) for i in range(count)]
        names = [str(product.row["category3_code"]) for product in products]
        prompts = PromptProcessor(backend.folder)
        one_word = [i for i in range(3, backend.config.vocab_size) if i not in prompts.stop_ids]
        self.end = prompts.stop_ids[0]
        self.categories = sorted(CATEGORIES)
        # The last words of the vocabulary are the answers, the others tags.
        self.tags, answers = one_word[: -len(self.categories)], one_word[-len(self.categories) :]
        self.answers = np.array([answers[self.categories.index(name)] for name in names])
        self.vision = backend.config.vision
        self.photos = []
        for product in products:
            image = process_image(open_photo(product.picture), num_crops)
            features = backend.vision_features(image.distinct_crops)
            self.photos.append(ProcessedImage(np.zeros((0, 3, 336, 336), np.float32), image.grid, features=features))

    def prompt(self, chosen: np.ndarray, asked: np.ndarray, tags: np.ndarray) -> tuple[Example, int]:
        """A prompt that shows these photos with these tags and asks about those at the places `asked`, and the last answer,
        which it lacks."""
        ids, labels = [[BOS]], [[IGNORE]]
        for k, (photo, tag) in enumerate(zip(chosen, tags, strict=True), start=1):
            tokens = image_token_count(self.photos[photo].grid, self.vision)
            ids.append([-k] * tokens + [int(tag), BOS])
            # Read off each photo as well: after its tag comes its category, as a label alone.
            labels.append([IGNORE] * (tokens + 1) + [int(self.answers[photo])])
        for place in asked:
            ids.append([self.end, int(tags[place]), int(self.answers[chosen[place]])])
            labels.append([IGNORE, IGNORE, int(self.answers[chosen[place]])])
        ids[-1], labels[-1] = ids[-1][:-1], labels[-1][:-1]
        example = Example("prompt", np.concatenate(ids), np.concatenate(labels), tuple(self.photos[i] for i in chosen))
        return example, int(self.answers[chosen[asked[-1]]])

    def __len__(self) -> int:
        return len(self.photos)


CATEGORIES: list[str] = []


def find_categories() -> None:
    """All categories of the catalogue, from its first products."""
    CATEGORIES.extend(sorted({str(draw_product(get_brand("sample"), SEED, i).row["category3_code"]) for i in range(300)}))


def training_rows(album: Album, rows: int, most: int, random: np.random.Generator) -> Iterator[Example]:
    """Prompts that ask about all of their photos, with the answers."""
    for _ in range(rows):
        chosen = random.choice(len(album), int(random.integers(2, most + 1)), replace=False)
        example, answer = album.prompt(chosen, random.permutation(len(chosen)), random.permutation(album.tags)[: len(chosen)])
        yield Example("row", np.append(example.input_ids, answer), np.append(example.labels, answer), example.images)


def lookup_layer(model: Any, album: Album, begin: bool) -> Callable[[], None]:
    """Make the last layer one that looks for the same word, wherever it is, and copies what is there; what keeps it so.

    Words have half of the dimensions, those in which photos differ least. The layers before write into the others alone, and
    the last one's queries and keys read words alone, without the frequencies that turn within 100,000 positions. Left to chance
    this was not learnt in some hundred steps, and never for texts longer than those of the training.
    """
    import torch

    config, layers = model.config, model.model.layers
    seen = torch.from_numpy(np.concatenate([photo.features for photo in album.photos[:100] if photo.features is not None]))
    basis = torch.linalg.eigh(seen.T @ seen)[1]
    half = len(basis) // 2
    words = basis[:, :half] @ basis[:, :half].T
    others, (query, key, value) = torch.eye(len(basis)) - words, layers[-1].self_attn.qkv_proj.weight.data.chunk(3)
    fast = torch.arange(len(query)) % (config.head_dim // 2) < SLOW * (config.head_dim // 2)

    def tidy() -> None:
        for layer in layers[:-1]:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.data[:] = others @ projection.weight.data
        model.model.embed_tokens.weight.data[:] = model.model.embed_tokens.weight.data @ words
        for projection in (query, key):
            projection[:] = projection @ words
            projection[fast] = 0

    if begin:
        model.model.embed_tokens.weight.data *= 2**0.5
        query[:] = SHARP * key
        layers[-1].self_attn.o_proj.weight.data[:] = value.T
        tidy()
    return tidy


def last_queries(model: Any) -> Any:
    """The weights of the last layer's queries, to be changed in place."""
    return model.model.layers[-1].self_attn.qkv_proj.weight.data.chunk(3)[0]


def train(folder: Path, steps: int, rows: int, rate: float, photos: int, longest: int) -> None:
    """Tune the decoder, or go on with one that is there, and store it; a line of JSON every 25 steps."""
    import torch
    from safetensors.torch import load_file, save_file

    begin = not folder.exists()
    if begin:
        write_narrow(folder, hidden=160, heads=2, layers=3, theta=THETA, vocabulary=WORDS)
    backend: Any = load_backend("torch", folder, dtype="float32")
    began = time.perf_counter()
    album = Album(backend, 0, photos, 1)
    say(photos=len(album), categories=CATEGORIES, encode_s=round(time.perf_counter() - began, 1))
    random = np.random.Generator(np.random.PCG64(SEED))
    model = backend.model
    if not begin:
        last_queries(model).div_(SHARPER)
    tidy = lookup_layer(model, album, begin)
    tuned = {
        name: p.requires_grad_()
        for name, p in model.named_parameters()
        if not ("vision_embed_tokens" in name or "norm" in name)
    }
    optimizer = torch.optim.AdamW(tuned.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20) * max(0.02, 1 - i / steps))
    window: list[list[float]] = []
    most, lately = 3 if begin else longest, 0.0  # photos of a prompt, and the share of right answers
    short, long = model.model.config, replace(model.model.config, original_max_position_embeddings=1)
    for step in range(1, steps + 1):
        model.model.config = long if step % 2 else short  # which RoPE factors a prompt takes
        if lately > 0.75 and most < longest:
            most, lately = most + 1, 0.6
        batch = collate(list(training_rows(album, rows, most, random)), backend.config)
        states: list[Any] = []
        backend._hidden(batch, None, every_layer=states)
        shifted = torch.from_numpy(batch.labels[:, 1:])
        places = (shifted != IGNORE).nonzero(as_tuple=True)
        asked = torch.from_numpy(batch.input_ids[:, 1:])[places] == shifted[places]  # what is read off a photo is a label alone
        # What is read off a photo is to be there before the last layer, so that it can be found.
        found = torch.where(asked[:, None], states[-1][:, :-1][places], model.model.norm(states[-2][:, :-1][places]))
        logits = model.lm_head(found)
        losses = torch.nn.functional.cross_entropy(logits, shifted[places], reduction="none")
        # A word that asks shows no photo of its own: before the last layer it is to say nothing.
        silent = model.lm_head(model.model.norm(states[-2][:, :-1][places][asked]))
        nothing = torch.nn.functional.cross_entropy(silent, torch.full((len(silent),), album.end))
        (losses[asked].mean() + losses[~asked].mean() + 0.5 * nothing).backward()
        torch.nn.utils.clip_grad_norm_(list(tuned.values()), 1.0)
        optimizer.step()
        tidy()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        right = (logits.argmax(-1) == shifted[places]).float()
        lately += 0.1 * (float(right[asked].mean()) - lately)
        window.append([float(losses[asked].mean().detach()), float(right[asked].mean()), float(right[~asked].mean())])
        if step % 25 == 0 or step == steps:
            loss, answered, seen = np.mean(window, axis=0).round(3).tolist()
            seconds = round(time.perf_counter() - began, 1)
            say(step=step, photos=most, loss=loss, right=answered, seen=seen, s=seconds)
            window = []
    last_queries(model).mul_(SHARPER)
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {name: p.detach().clone() for name, p in tuned.items()}, folder / "model.safetensors", {"format": "pt"})


def ask(folder: Path, backend: str, sizes: list[int], questions: int, num_crops: int, kv_bits: int | None) -> None:
    """Ask about photos all over a prompt of so many tokens, which is read once; a line of JSON each."""
    loaded = load_backend(backend, folder, dtype="float32", kv_bits=kv_bits)
    random = np.random.Generator(np.random.PCG64(SEED + 1))
    [photo] = Album(loaded, UNSEEN, 1, num_crops).photos
    each = 2 + image_token_count(photo.grid, loaded.config.vision)
    album = Album(loaded, UNSEEN, (min(max(sizes), POSITIONS) - 4) // each, num_crops)
    for size in sizes:
        photos = (min(size, POSITIONS) - 4) // each
        chosen, tags = random.permutation(len(album))[:photos], random.permutation(album.tags)[:photos]
        prefixes = PrefixCache(loaded.config, CACHE_BYTES)
        right, took, tokens = [], [], 0
        for question in range(questions):
            place = int((question + random.random()) * photos / questions)
            example, answer = album.prompt(chosen, np.array([place]), tags)
            began = time.perf_counter()
            row = RowState(example, Sampling(), 1)
            AnswerBatch(loaded, [row], (), prefixes=prefixes).step()
            took.append(time.perf_counter() - began)
            tokens = len(example.input_ids)
            right.append((place, row.answer.token_ids == [answer]))
        say(
            backend=backend, tokens=tokens, photos=photos, right=sum(hit for _, hit in right), of=questions,
            wrong_at=[place for place, hit in right if not hit], first_s=round(took[0], 1),
            next_s=round(float(np.median(took[1:])), 2) if took[1:] else None, 
            reused=prefixes.reused,
            peak_gb=peak_gb(), kv_bits=kv_bits,
        )  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "ask"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--photos", type=int, default=600, help="different ones to train on")
    parser.add_argument("--longest", type=int, default=12, help="photos of a prompt in training, at most")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384, POSITIONS])
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--num-crops", type=int, default=4)
    parser.add_argument("--kv-bits", type=int)
    options = parser.parse_args()
    find_categories()
    if options.what == "train":
        train(options.folder, options.steps, options.rows, options.rate, options.photos, options.longest)
    else:
        ask(options.folder, options.backend, options.tokens, options.questions, options.num_crops, options.kv_bits)


if __name__ == "__main__":
    main()
