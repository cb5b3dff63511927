"""Pre-train the built-in tiny Phi-3-V on the generated catalogue of the brand "atelier".

    python scripts/pretrain_tiny.py --output mlx_phi3v/tiny

The tower learns to see first: every patch is asked what it shows, where on the product it lies and what the product
is. Then the whole model learns to answer in the words of two made-up houses and in plain English. Nothing of the sample
brand is seen: only tuning can teach a model its names and prices. Writes a checkpoint in the published layout: config,
bf16 weights, tokenizer, image processor settings and the log of this run.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import EMBEDDINGS, initial_weights, model_json, see_principal_parts
from tiny_pictures import Pictures, load_pictures, patches, vary
from tiny_texts import BRAND, COPY_PROMPT, question, scribble, train_tokenizer, training_texts
from torch import distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, smooth_l1_loss

from data.sample.brands import get_brand
from data.sample.products import choose_appearance
from mlx_phi3v.backend_torch.backend import TorchBackend, parameter_name
from mlx_phi3v.backend_torch.decoder import RotaryEmbedding
from mlx_phi3v.backend_torch.model import Phi3VForCausalLM
from mlx_phi3v.batches import Batch, Example, collate
from mlx_phi3v.checkpoint.layout import is_unused
from mlx_phi3v.cli import option, parse
from mlx_phi3v.config import CROP_SIZE, IMAGE_MEAN, IMAGE_STD, ModelConfig, load_model_config
from mlx_phi3v.crops import ProcessedImage, image_token_count, normalise
from mlx_phi3v.errors import run_cli
from mlx_phi3v.files import write_json, write_text
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.schedule import learning_rate

LOOKS = ("shape", "material", "colour", "pattern", "size", "logo")
VOICES = (0.5, 0.25, 0.25)


@dataclass(frozen=True)
class Settings:
    """Of one pre-training run."""

    output: Path = option(help="folder for the checkpoint")
    products: int = option(48000, help="pictures to draw; the last 1,000 are kept for testing")
    half_steps: int = option(3000, help="steps of the tower alone, on half of the patches")
    full_steps: int = option(500, help="steps of the tower alone, on all patches")
    joint_steps: int = option(1300, help="steps of the whole model")
    batch_size: int = option(64, help="pictures a step, over all workers")
    vision_rate: float = option(1e-3, help="peak rate of the tower alone")
    joint_rate: float = option(1.5e-3, help="peak rate of the whole model; the tower learns at a tenth of it")
    copies: int = option(8, help="rows of text to copy a step, over all workers")
    seed: int = option(7, help="seed of weights, products and order")
    vocab_size: int = option(1100, help="tokens before the special ones")
    cache: Path = option(Path("/tmp/pretrain_tiny"), help="folder for the drawn pictures and the tower that learnt alone")
    workers: int = option(2, help="processes that draw and train, one thread each")

    @property
    def alone(self) -> int:
        """Steps of the tower alone."""
        return self.half_steps + self.full_steps

    @property
    def tower_file(self) -> Path:
        """Where the tower that learnt alone is kept: named after all that made it."""
        later = ("output", "cache", "joint_steps", "joint_rate", "copies", "vocab_size")
        made_by = json.dumps({k: v for k, v in asdict(self).items() if k not in later}, sort_keys=True)
        return self.cache / f"tower-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}.safetensors"


class Questions(nn.Module):
    """Asks the tower's features what was drawn; no part of the model."""

    def __init__(self, size: int, classes: list[int]) -> None:
        super().__init__()
        self.classes = classes
        self.pooled = nn.Linear(2 * size, sum(classes))
        self.by_patch = nn.Linear(size, sum(classes))
        self.where = nn.Linear(size, 3)

    def forward(
        self, features: torch.Tensor, looks: torch.Tensor, share: torch.Tensor, place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, K, C], looks [N, 6], share [N, K], place [N, K, 2] -> loss, and the accuracy of each look."""
        pooled = self.pooled(torch.cat([features.mean(1), features.amax(1)], dim=1)).split(self.classes, dim=1)
        where = self.where(features)
        loss = binary_cross_entropy_with_logits(where[..., 0], share)
        on = share > 0.5
        loss = loss + smooth_l1_loss(where[..., 1:][on], place[on], beta=0.1)
        by_patch = self.by_patch(features[on]).split(self.classes, dim=1)
        labels = looks[:, None].expand(-1, share.shape[1], -1)[on]
        for i in range(len(self.classes)):
            loss = loss + (cross_entropy(pooled[i], looks[:, i]) + cross_entropy(by_patch[i], labels[:, i])) / 4
        right = torch.stack([(x.argmax(1) == looks[:, i]).float().mean() for i, x in enumerate(pooled)])
        return loss, right


@dataclass
class Step:
    """What one worker needs for one step; `batch` is None where the tower learns alone."""

    patches: torch.Tensor | None
    kept: torch.Tensor
    looks: torch.Tensor
    share: torch.Tensor
    place: torch.Tensor
    batch: Batch | None


class Data:
    """Pictures, looks and answers of all products, step by step."""

    def __init__(self, settings: Settings, config: ModelConfig, prompts: PromptProcessor, pictures: Pictures) -> None:
        self.settings, self.config, self.prompts, self.pictures = settings, config, prompts, pictures
        self.size, self.count = config.vision.patch_size, image_token_count((1, 1), config.vision)
        looks = [choose_appearance(get_brand(BRAND), settings.seed, i) for i in range(settings.products)]
        columns = [[str(getattr(look, name)) for look in looks] for name in LOOKS]
        names = [sorted(set(column)) for column in columns]
        self.classes = [len(column) for column in names]
        self.looks = torch.tensor([[n.index(v) for n, v in zip(names, row)] for row in zip(*columns)])

    def step(self, rows: np.ndarray, rng: np.random.Generator, *, keep: float, joint: bool) -> Step:
        """One worker's rows; `keep` is the share of patches to see."""
        grid = CROP_SIZE // self.size
        crops, share, place = (np.stack(x) for x in zip(*(vary(self.pictures, i, self.size, rng) for i in rows)))
        kept = np.sort(np.argsort(rng.random((len(rows), grid * grid)), axis=1)[:, : round(keep * grid * grid)], axis=1)
        at = np.arange(len(rows))[:, None]
        rest = torch.from_numpy(kept), self.looks[rows], torch.from_numpy(share[at, kept]), torch.from_numpy(place[at, kept])
        if not joint:
            return Step(torch.from_numpy(patches(crops, kept, self.size)), *rest, None)
        examples = []
        for crop, i in zip(crops, rows):
            prompt, answer = question(int(rng.choice(3, p=VOICES)), self.settings.seed, int(i))
            image = ProcessedImage(np.broadcast_to(normalise(crop), (2, 3, CROP_SIZE, CROP_SIZE)), (1, 1))
            examples.append(Example(str(i), *self.prompts.example(prompt, answer, [self.count]), (image,)))
        for _ in range(self.settings.copies // self.settings.workers):
            text = scribble(rng)
            examples.append(Example("copy", *self.prompts.example(COPY_PROMPT.format(text=text), text, []), ()))
        return Step(None, *rest, collate(examples, self.config))

    def steps(self, rank: int, first: int, last: int) -> Iterator[Step]:
        """Some steps of one worker, each made while the one before it is learnt."""
        s = self.settings
        size = s.batch_size // s.workers
        per_epoch = (s.products - 1000) // s.batch_size

        def make(step: int) -> Step:
            order = np.random.default_rng([s.seed, step // per_epoch]).permutation(s.products - 1000)
            start = step % per_epoch * s.batch_size + rank * size
            rng = np.random.default_rng([s.seed, step, rank, 5])
            keep = 0.5 if step < s.half_steps else 1.0
            return self.step(order[start : start + size], rng, keep=keep, joint=step >= s.alone)

        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(make, first)
            for step in range(first, last):
                ready = upcoming.result()
                if step + 1 < last:
                    upcoming = pool.submit(make, step + 1)
                yield ready


def look_at(tower: nn.Module, seen: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Features [N, K, C] of some patches [N, K, 3 * size^2] alone: as the tower's forward, without the class token's."""
    embeddings = tower.embeddings
    x = linear(seen, embeddings.patch_embedding.weight.flatten(1)) + embeddings.position_embedding.weight[kept + 1]
    first = (embeddings.class_embedding + embeddings.position_embedding.weight[0]).expand(len(x), 1, -1)
    x = tower.pre_layrnorm(torch.cat([first, x], dim=1))
    for layer in tower.encoder.layers:
        x = layer(x, attention_mask=None)
    return x[:, 1:]


def sum_over_workers(parameters: list[nn.Parameter], statistics: torch.Tensor, workers: int) -> torch.Tensor:
    """Average gradients, in place, and `statistics` over all workers."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), statistics])
    distributed.all_reduce(flat)
    flat /= workers
    for gradient, part in zip(gradients, flat.split([*(g.numel() for g in gradients), len(statistics)])):
        gradient.copy_(part.view_as(gradient))
    return flat[-len(statistics) :]


@torch.no_grad()
def examine(tower: nn.Module, questions: Questions, data: Data) -> dict[str, float]:
    """How often the looks of the 1,000 pictures kept for testing are named."""
    rights = []
    for first in range(data.settings.products - 1000, data.settings.products, 50):
        rng = np.random.default_rng([first, 6])
        step = data.step(np.arange(first, first + 50), rng, keep=1.0, joint=False)
        assert step.patches is not None
        rights.append(questions(look_at(tower, step.patches, step.kept), step.looks, step.share, step.place)[1])
    return dict(zip(LOOKS, torch.stack(rights).mean(0).double().numpy().round(4).tolist()))


def rate_of(settings: Settings, step: int) -> tuple[float, float]:
    """Rates (tower, language model) of a step: a warm-up and a half cosine for each of the two stages."""
    s, alone = settings, settings.alone
    if step < alone:
        return learning_rate(step, peak=s.vision_rate, total_steps=alone, warmup_steps=300, schedule="cosine"), 0.0
    rate = learning_rate(step - alone, peak=s.joint_rate, total_steps=s.joint_steps, warmup_steps=100, schedule="cosine")
    return rate / 10, rate


def train(rank: int, settings: Settings, meeting: str) -> None:
    """One worker's part; worker 0 logs and saves."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.workers)
    lines: list[str] = []

    def log(**values: object) -> None:
        if rank == 0:
            lines.append(json.dumps(values))
            print(lines[-1], flush=True)

    config = load_model_config(settings.output)
    pictures = load_pictures(settings.cache, BRAND, settings.seed, settings.products, settings.workers)
    data = Data(settings, config, PromptProcessor(settings.output), pictures)
    weights = initial_weights(config, settings.seed)
    rng = np.random.default_rng([settings.seed, 8])
    chosen = np.stack([pictures.crops[i] for i in rng.integers(settings.products - 1000, size=1500)])
    kept = rng.integers((CROP_SIZE // data.size) ** 2, size=(1500, 16))
    see_principal_parts(weights, patches(chosen, kept, data.size).reshape(1500 * 16, -1))
    model = Phi3VForCausalLM(config)
    model.load_state_dict({parameter_name(k): v for k, v in weights.items() if not is_unused(k, config)}, strict=True)
    model.model.rotary_emb = RotaryEmbedding(config)
    backend = TorchBackend(model, config, settings.output, "float32", torch.device("cpu"), "sdpa", (0, 1))
    log(settings={k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}, brand=BRAND)
    log(parameters=sum(v.numel() for v in weights.values()), vocab_size=config.vocab_size, torch=torch.__version__)

    tower = model.model.vision_embed_tokens.img_processor.vision_model
    questions = Questions(config.vision.hidden_size, data.classes)
    features: list[torch.Tensor] = []
    tower.register_forward_hook(lambda module, inputs, out: features.append(out))
    groups = []
    patch_embedding = model.get_parameter(parameter_name(EMBEDDINGS + "patch_embedding.weight"))
    vision = {id(p) for p in [*tower.parameters(), *questions.parameters()]}
    parameters = [*model.parameters(), *questions.parameters()]
    for p in parameters:
        # A patch's filter sums thousands of pixels alike in sign: at the full rate it would forget where it started.
        scale = 0.03 if p is patch_embedding else 1.0
        decay = 0.05 if p.ndim > 1 and p is not patch_embedding else 0.0
        groups.append({"params": [p], "weight_decay": decay, "scale": scale, "part": 0 if id(p) in vision else 1})

    def save() -> None:
        current = {n: model.get_parameter(parameter_name(n)).detach() for n in weights if not is_unused(n, config)}
        stored = {name: value.to(torch.bfloat16).contiguous() for name, value in (weights | current).items()}
        save_file(stored, settings.output / "model.safetensors", {"format": "pt"})
        write_text(settings.output / "pretrain.log", "\n".join(lines) + "\n")

    def learn(first: int, last: int) -> None:
        optimizer = torch.optim.AdamW(groups, lr=settings.vision_rate, betas=(0.9, 0.98), fused=True)
        window, started = [], time.time()
        for number, step in enumerate(data.steps(rank, first, last), start=first + 1):
            rates = rate_of(settings, number - 1)
            for group in optimizer.param_groups:
                group["lr"] = rates[group["part"]] * group["scale"]
            features.clear()
            loss = torch.zeros(())
            if step.batch is None:
                assert step.patches is not None
                seen, right = questions(look_at(tower, step.patches, step.kept), step.looks, step.share, step.place)
            else:
                loss = backend.token_loss(step.batch) / step.batch.answer_tokens
                seen, right = questions(features[0], step.looks, step.share, step.place)
            (loss + (seen if step.batch is None else 0.3 * seen)).backward()
            statistics = torch.cat([torch.stack([loss.detach(), seen.detach()]), right])
            window.append(sum_over_workers(parameters, statistics, settings.workers).double().numpy())
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if number % 100 == 0:
                mean = np.mean(window, axis=0).round(4).tolist()
                speed = round(len(window) * settings.batch_size / (time.time() - started), 1)
                of = settings.alone + settings.joint_steps
                seen_now = dict(zip(LOOKS, mean[2:]))
                log(step=number, of=of, loss=mean[0], questions=mean[1], seen=seen_now, pictures_s=speed)
                window, started = [], time.time()
            if rank == 0 and (number % 500 == 0 or number == last):
                log(step=number, unseen=examine(tower, questions, data))
                save()
                started = time.time()

    seeing = nn.ModuleList([tower, questions])
    if not settings.tower_file.exists():
        learn(0, settings.alone)
        if rank == 0:
            temporary = settings.tower_file.with_suffix(".tmp")
            save_file(seeing.state_dict(), temporary, {"log": json.dumps(lines)})
            os.replace(temporary, settings.tower_file)
    distributed.barrier()
    seeing.load_state_dict(load_file(settings.tower_file))
    with safe_open(settings.tower_file, "pt") as stored:
        lines[:] = json.loads(stored.metadata()["log"])
    log(settings={k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()})
    learn(settings.alone, settings.alone + settings.joint_steps)
    distributed.barrier()
    distributed.destroy_process_group()


def write_checkpoint_files(settings: Settings) -> None:
    """Tokenizer, config and processor settings."""
    output = settings.output
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(training_texts(settings.seed), settings.vocab_size)
    tokenizer.save(str(output / "tokenizer.json"))
    write_json(output / "config.json", model_json(-(-tokenizer.get_vocab_size() // 32) * 32))
    write_json(output / "preprocessor_config.json", {
        "image_processor_type": "Phi3VImageProcessor", "processor_class": "Phi3VProcessor", "num_crops": 1,
        "num_img_tokens": 36, "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD,
    })  # fmt: skip
    write_json(output / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>",
        "pad_token": "<|endoftext|>", "model_max_length": 16384,
    })  # fmt: skip


def main() -> int:
    """Draw, train, write."""
    settings = parse(Settings, "python scripts/pretrain_tiny.py", __doc__ or "")
    write_checkpoint_files(settings)
    load_pictures(settings.cache, BRAND, settings.seed, settings.products, settings.workers)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (settings, os.path.join(folder, "meeting"))
        torch.multiprocessing.start_processes(train, arguments, nprocs=settings.workers, start_method="spawn")
    return 0


if __name__ == "__main__":
    run_cli(main)
