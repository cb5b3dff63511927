"""Pre-train the built-in tiny Phi-3-V on the generated catalogue of the brand "atelier".

    python scripts/pretrain_tiny.py --output mlx_phi3v/tiny --products 20000 --epochs 3

Writes a checkpoint in the published layout: config, bf16 weights, tokenizer, image processor settings and the log of
this run. Nothing of the sample brand is seen: only tuning can teach a model its names and prices.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from data.brands import get_brand
from data.products import choose_look, draw_product, make_row
from mlx_phi3v.backend_torch.backend import TorchBackend, parameter_name
from mlx_phi3v.backend_torch.decoder import RotaryEmbedding
from mlx_phi3v.backend_torch.model import Phi3VForCausalLM
from mlx_phi3v.batches import Batch, Example, collate
from mlx_phi3v.cli import option, parse
from mlx_phi3v.config import CROP_SIZE, IMAGE_MEAN, IMAGE_STD, ModelConfig, load_model_config
from mlx_phi3v.errors import run_cli
from mlx_phi3v.files import write_json, write_text
from mlx_phi3v.images import ProcessedImage, hd_transform, image_token_count, normalise
from mlx_phi3v.photo import open_photo
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.schedule import learning_rate
from mlx_phi3v.task import Task
from mlx_phi3v.weights import expected_tensors, is_unused

BRAND = "atelier"
# The published special tokens, in their published order; these strip the white space after them.
SPECIAL = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{i}|>" for i in range(1, 5)), "<|system|>", "<|end|>",
           "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]  # fmt: skip
STRIPPING = ("<|assistant|>", "placeholder")


@dataclass(frozen=True)
class Settings:
    """Of one pre-training run."""

    output: Path = option(help="folder for the checkpoint")
    products: int = option(20000, help="pictures to draw")
    first: int = option(0, help="number of the first of them, to go on with new ones")
    epochs: float = option(3.0, help="passes over them")
    batch_size: int = option(32, help="rows a step")
    learning_rate: float = option(1.5e-3, help="peak rate")
    seed: int = option(7, help="seed of weights, products and order")
    vocab_size: int = option(900, help="tokens before the special ones")
    vision_epochs: float = option(0.0, help="of the epochs, how many train the tower alone, by the auxiliary loss")
    start: Path | None = option(None, help="checkpoint of an earlier run of this script to go on from")
    spread_positions: bool = option(False, help="with --start: give the positions a say, see `spread_positions`")
    auxiliary: float = option(0.5, help="weight of a loss that asks pooled features for what was drawn")
    cache: Path = option(Path("/tmp/pretrain_tiny"), help="folder for the drawn pictures")
    processes: int = option(2, help="processes that draw")


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-fallback BPE of the published form: ▁ for spaces, single digits, the special tokens at the end."""
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(alphabet), special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=[chr(c) for c in range(33, 127)],
    )  # fmt: skip
    trained.train_from_iterator(texts, trainer)
    learnt = json.loads(trained.to_str())["model"]
    tokens = sorted(learnt["vocab"], key=learnt["vocab"].get)
    tokens = tokens[:3] + alphabet + tokens[3:]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, rstrip=any(s in t for s in STRIPPING)) for t in SPECIAL])
    return tokenizer


def model_json(vocab_size: int) -> dict[str, object]:
    """`config.json` of the tiny model: Phi-3-V's architecture with 28-pixel patches and narrow layers."""
    half = 20
    return {
        "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": vocab_size,
        "hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "initializer_range": 0.02, "max_position_embeddings": 16384, "original_max_position_embeddings": 2048,
        "rope_theta": 10000.0, "sliding_window": 16384, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "su", "short_factor": [1.0] * half, "long_factor": [1.0 + i / 4 for i in range(half)]},
        "embd_layer": {"embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
                       "use_hd_transform": True, "with_learnable_separator": True},
        "img_processor": {
            "name": "clip_vision_model", "model_name": "tiny", "image_dim_out": 160, "num_img_tokens": 36,
            "clip": {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 6, "num_attention_heads": 5,
                     "image_size": 336, "patch_size": 28},
        },
    }  # fmt: skip


def draw(job: tuple[int, int, int]) -> list[np.ndarray]:
    """White-padded 336-pixel squares of a range of products, uint8 [336, 336, 3] each."""
    seed, start, stop = job
    brand = get_brand(BRAND)
    return [hd_transform(open_photo(draw_product(brand, seed, i).picture), 1) for i in range(start, stop)]


def pictures(settings: Settings) -> np.ndarray:
    """All drawn pictures as one memory-mapped array, drawn once and kept in `cache`."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    path = settings.cache / f"{BRAND}-{settings.seed}-{settings.products}-{settings.first}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    temporary = path.with_suffix(".tmp.npy")
    shape = (settings.products, CROP_SIZE, CROP_SIZE, 3)
    array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
    starts = range(0, settings.products, 100)
    last = settings.first + settings.products
    jobs = [(settings.seed, settings.first + i, min(settings.first + i + 100, last)) for i in starts]
    with ProcessPoolExecutor(settings.processes, get_context("spawn")) as pool:
        for start, squares in zip(starts, pool.map(draw, jobs)):
            array[start : start + len(squares)] = squares
    array.flush()
    os.replace(temporary, path)
    return np.load(path, mmap_mode="r")


def initial_weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Random weights: normal of 0.02, output projections smaller by depth (GPT-2), norms one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in expected_tensors(config).items():
        if name.endswith("bias"):
            weights[name] = torch.zeros(shape)
        elif "norm" in name and name.endswith("weight"):
            weights[name] = torch.ones(shape)
        else:
            std = 0.02 if "embed" in name or name.startswith("lm_head") else math.prod(shape[1:]) ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                std /= math.sqrt(2 * config.num_hidden_layers)
            weights[name] = torch.randn(shape, generator=generator) * std
    return weights


def spread_positions(weights: dict[str, torch.Tensor], seed: int) -> None:
    """Bring patches and positions to one size before the pre-norm, in place.

    A patch's embedding sums 2,352 pixels of one sign, so its norm comes to about 100 where a position's is 0.6: the
    tower saw what there was, but not where. The pre-norm takes out the common scale, so shrinking the patches is safe.
    """
    embeddings = "model.vision_embed_tokens.img_processor.vision_model.embeddings."
    generator = torch.Generator().manual_seed(seed)
    weights[embeddings + "patch_embedding.weight"] *= 0.05
    position = weights[embeddings + "position_embedding.weight"]
    position += 0.3 * torch.randn(position.shape, generator=generator)


class Auxiliary(nn.Module):
    """Asks the pooled picture features what was drawn, so that the tower learns to see from the first steps."""

    def __init__(self, size: int, classes: list[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2 * size, n) for n in classes)

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features: [N, positions, C]; targets: [N, heads]. Mean loss and accuracy by head."""
        pooled = torch.cat([features.mean(1), features.amax(1)], dim=1)
        logits = [head(pooled) for head in self.heads]
        loss = sum(nn.functional.cross_entropy(x, targets[:, i]) for i, x in enumerate(logits)) / len(logits)
        right = torch.stack([(x.argmax(1) == targets[:, i]).float().mean() for i, x in enumerate(logits)])
        return loss, right


class Data:
    """Pictures and answers of all products, batch by batch."""

    def __init__(self, settings: Settings, prompts: PromptProcessor, config: ModelConfig, squares: np.ndarray) -> None:
        self.config, self.squares = config, squares
        brand = get_brand(BRAND)
        self.tokens: list[tuple[np.ndarray, np.ndarray]] = []
        looks = []
        count = image_token_count((1, 1), config.vision)
        for i in range(settings.first, settings.first + settings.products):
            look = choose_look(brand, settings.seed, i)
            looks.append((look.shape, look.material, look.colour, look.pattern, str(look.size), str(look.logo)))
            row = make_row(brand, settings.seed, i)[1]
            self.tokens.append(prompts.example(Task().prompt, Task().answer(row), [count]))
        names = [sorted(set(column)) for column in zip(*looks)]
        self.classes = [len(column) for column in names]
        self.looks = np.array([[names[j].index(value) for j, value in enumerate(look)] for look in looks])

    def batch(self, rows: np.ndarray) -> tuple[Batch, torch.Tensor]:
        """The rows as a batch, with what was drawn."""
        examples = []
        for i in rows:
            crops = np.broadcast_to(normalise(self.squares[i]), (2, 3, CROP_SIZE, CROP_SIZE))
            examples.append(Example(str(i), *self.tokens[i], (ProcessedImage(crops, (1, 1)),)))
        return collate(examples, self.config), torch.from_numpy(self.looks[rows])


def main() -> int:
    """Draw, train, write."""
    settings = parse(Settings, "scripts/pretrain_tiny.py", __doc__ or "")
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    output, brand = settings.output, get_brand(BRAND)
    output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []

    def log(**values: object) -> None:
        lines.append(json.dumps(values))
        print(lines[-1], flush=True)

    log(settings={k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}, brand=BRAND)
    texts = [Task().answer(make_row(brand, settings.seed, i)[1]) for i in range(min(4000, settings.products))]
    texts += [Task().prompt, "What does it cost? What is it made of? Describe the product in this photo."]
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    vocab_size = -(-tokenizer.get_vocab_size() // 32) * 32
    tokenizer.save(str(output / "tokenizer.json"))
    write_json(output / "config.json", model_json(vocab_size))
    write_json(output / "preprocessor_config.json", {
        "image_processor_type": "Phi3VImageProcessor", "processor_class": "Phi3VProcessor", "num_crops": 1,
        "num_img_tokens": 36, "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD,
    })  # fmt: skip
    write_json(output / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>",
        "pad_token": "<|endoftext|>", "model_max_length": 16384,
    })  # fmt: skip
    config = load_model_config(output)
    model = Phi3VForCausalLM(config)
    weights = initial_weights(config, settings.seed)
    spread_positions(weights, settings.seed)
    if settings.start:
        weights = {name: value.float() for name, value in load_file(settings.start / "model.safetensors").items()}
        if settings.spread_positions:
            spread_positions(weights, settings.seed)
        lines += (settings.start / "pretrain.log").read_text().splitlines()
    used = {parameter_name(k): v for k, v in weights.items() if not is_unused(k, config)}
    model.load_state_dict(used, strict=True)
    model.model.rotary_emb = RotaryEmbedding(config)
    backend = TorchBackend(model, config, output, "float32", torch.device("cpu"), "sdpa", (0, 1))
    log(parameters=sum(v.numel() for v in weights.values()), vocab_size=vocab_size)
    started = time.time()
    data = Data(settings, PromptProcessor(output), config, pictures(settings))
    log(pictures=settings.products, seconds=round(time.time() - started))

    def save() -> None:
        current = {n: model.get_parameter(parameter_name(n)).detach() for n in weights if not is_unused(n, config)}
        stored = {name: value.to(torch.bfloat16).contiguous() for name, value in (weights | current).items()}
        save_file(stored, output / "model.safetensors", {"format": "pt"})
        write_text(output / "pretrain.log", "\n".join(lines) + "\n")
        torch.save(auxiliary.state_dict(), heads)

    auxiliary = Auxiliary(config.vision.hidden_size, data.classes)
    heads = settings.cache / "auxiliary.pt"  # not part of the model: only for --start
    if settings.start and heads.exists():
        auxiliary.load_state_dict(torch.load(heads))
    features: list[torch.Tensor] = []
    tower = model.model.vision_embed_tokens.img_processor.vision_model
    tower.register_forward_hook(lambda module, inputs, out: features.append(out))
    parameters = [*model.parameters(), *auxiliary.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}],
        lr=settings.learning_rate, betas=(0.9, 0.98),
    )  # fmt: skip
    loader = ThreadPoolExecutor(1)
    per_epoch = settings.products // settings.batch_size
    total, step, window, started = round(per_epoch * settings.epochs), 0, [], time.time()
    vision_steps = round(per_epoch * settings.vision_epochs)
    for epoch in range(math.ceil(settings.epochs)):
        order = np.random.default_rng([settings.seed, epoch]).permutation(settings.products)
        count = min(per_epoch, total - step)
        parts = [order[i * settings.batch_size : (i + 1) * settings.batch_size] for i in range(count)]
        upcoming = loader.submit(data.batch, parts[0])
        for i in range(count):
            batch, looks = upcoming.result()
            upcoming = loader.submit(data.batch, parts[min(i + 1, count - 1)])
            rate = learning_rate(
                step, peak=settings.learning_rate, total_steps=total, warmup_steps=min(300, total // 10), schedule="cosine"
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            features.clear()
            if step < vision_steps:
                tower(torch.from_numpy(batch.pixel_values))
                loss = torch.zeros(())
            else:
                loss = backend.token_loss(batch) / batch.answer_tokens
            seen, right = auxiliary(features[0], looks)
            (loss + settings.auxiliary * seen).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            window.append([loss.item(), seen.item(), *right.tolist()])
            step += 1
            if step % 250 == 0:
                save()
            if step % 25 == 0 or step == total:
                mean = np.mean(window, axis=0).round(4).tolist()
                window = []
                speed = step * settings.batch_size / (time.time() - started)
                log(
                    step=step,
                    of=total,
                    loss=mean[0],
                    auxiliary=mean[1],
                    seen=mean[2:],
                    rate=round(rate, 6),
                    pictures_s=round(speed, 1),
                )
    save()
    log(done=True, seconds=round(time.time() - started), torch=torch.__version__, picture_library=Image.__version__)
    write_text(output / "pretrain.log", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    run_cli(main)
