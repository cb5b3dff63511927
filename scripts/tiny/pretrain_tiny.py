"""Pre-train the built-in tiny Phi-3-V on the generated catalogue of the brand "atelier".

    python scripts/tiny/pretrain_tiny.py --output mlx_phi3v/tiny

The tower learns to see first: every patch is asked what it shows, where on the product it is and what the product
is. Then the whole model learns to answer in the words of two made-up brands and in plain English. Nothing of the sample
brand is seen: only tuning can teach a model its names and prices. Writes a checkpoint in the published layout: config,
bf16 weights, tokenizer, image processor settings and the log of this run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_data import LOOKS, TESTED, Data, Step
from tiny_model import EMBEDDINGS, initial_weights, model_json, see_principal_parts
from tiny_pictures import Pictures, load_pictures, patches
from tiny_settings import PretrainConfig, rate_of
from tiny_texts import BRAND, train_tokenizer, training_texts
from tiny_vision import Questions, examine, look_at
from torch import distributed, nn

from mlx_phi3v.backend_torch.backend import TorchBackend
from mlx_phi3v.backend_torch.decoder import RotaryEmbedding
from mlx_phi3v.backend_torch.model import Phi3VForCausalLM, parameter_name
from mlx_phi3v.backend_torch.ranks import Ranks
from mlx_phi3v.checkpoint.layout import is_unused
from mlx_phi3v.cli import parse
from mlx_phi3v.config import CROP_SIZE, IMAGE_MEAN, IMAGE_STD, ModelArgs, load_model_config
from mlx_phi3v.errors import run_cli
from mlx_phi3v.files import write_json, write_text
from mlx_phi3v.prompts import PromptProcessor

_PATCH_EMBEDDING = EMBEDDINGS + "patch_embedding.weight"


def sum_over_workers(parameters: list[nn.Parameter], statistics: torch.Tensor, workers: int) -> torch.Tensor:
    """Average gradients, in place, and `statistics` over all workers."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), statistics])
    distributed.all_reduce(flat)
    flat /= workers
    for gradient, part in zip(gradients, flat.split([*(g.numel() for g in gradients), len(statistics)])):
        gradient.copy_(part.view_as(gradient))
    return flat[-len(statistics) :]


class Log:
    """The lines of the run's log; the first worker prints them."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.lines: list[str] = []

    def __call__(self, **values: object) -> None:
        if self.rank == 0:
            self.lines.append(json.dumps(values))
            print(self.lines[-1], flush=True)


class Worker:
    """One worker's model, questions and data."""

    def __init__(self, rank: int, settings: PretrainConfig) -> None:
        self.rank, self.settings, self.log = rank, settings, Log(rank)
        self.config = load_model_config(settings.output)
        pictures = load_pictures(settings.cache, BRAND, settings.seed, settings.products, settings.workers)
        self.data = Data(settings, self.config, PromptProcessor(settings.output), pictures)
        self.weights = first_weights(self.config, settings, pictures, self.data.size)
        self.model = build_model(self.config, self.weights)
        ranks = Ranks()
        ranks.device = torch.device("cpu")
        self.backend = TorchBackend(self.model, self.config, settings.output, "float32", "sdpa", ranks)
        self.tower = self.model.model.vision_embed_tokens.img_processor.vision_model
        self.questions = Questions(self.config.vision.hidden_size, self.data.classes)
        self.parameters = [*self.model.parameters(), *self.questions.parameters()]
        self.features: list[torch.Tensor] = []  # of the last forward pass
        self.tower.register_forward_hook(lambda module, inputs, out: self.features.append(out))

    def learn(self, first: int, last: int) -> None:
        """Take the steps from `first` to before `last`, with an optimiser of their own."""
        groups = self._parameter_groups()
        optimizer = torch.optim.AdamW(groups, lr=self.settings.vision_rate, betas=(0.9, 0.98), fused=True)
        window, started = [], time.time()
        for number, step in enumerate(self.data.steps(self.rank, first, last), start=first + 1):
            rates = rate_of(self.settings, number - 1)
            for group in optimizer.param_groups:
                group["lr"] = rates[group["part"]] * group["scale"]
            statistics = self._backward(step)
            window.append(sum_over_workers(self.parameters, statistics, self.settings.workers).double().numpy())
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if number % 100 == 0:
                self._log_window(number, window, time.time() - started)
                window, started = [], time.time()
            if self.rank == 0 and (number % 500 == 0 or number == last):
                self.log(step=number, unseen=examine(self.tower, self.questions, self.data))
                self.save()
                started = time.time()

    def _parameter_groups(self) -> list[dict[str, object]]:
        patch_embedding = self.model.get_parameter(parameter_name(_PATCH_EMBEDDING))
        vision = {id(p) for p in [*self.tower.parameters(), *self.questions.parameters()]}
        groups: list[dict[str, object]] = []
        for p in self.parameters:
            # A patch's filter sums thousands of pixels alike in sign: at the full rate it would forget where it started.
            scale = 0.03 if p is patch_embedding else 1.0
            decay = 0.05 if p.ndim > 1 and p is not patch_embedding else 0.0
            groups.append({"params": [p], "weight_decay": decay, "scale": scale, "part": 0 if id(p) in vision else 1})
        return groups

    def _backward(self, step: Step) -> torch.Tensor:
        """Gradients of one step -> its loss, the questions' loss and the accuracy of each look."""
        self.features.clear()
        loss = torch.zeros(())
        if step.batch is None:
            assert step.patches is not None
            features = look_at(self.tower, step.patches, step.shown)
        else:
            loss = self.backend.token_loss(step.batch) / step.batch.answer_tokens
            features = self.features[0]
        seen, right = self.questions(features, step.looks, step.share, step.place)
        (loss + (seen if step.batch is None else 0.3 * seen)).backward()
        return torch.cat([torch.stack([loss.detach(), seen.detach()]), right])

    def _log_window(self, number: int, window: list[np.ndarray], seconds: float) -> None:
        mean = np.mean(window, axis=0).round(4).tolist()
        speed = round(len(window) * self.settings.batch_size / seconds, 1)
        of = self.settings.alone + self.settings.joint_steps
        seen = dict(zip(LOOKS, mean[2:]))
        self.log(step=number, of=of, loss=mean[0], questions=mean[1], seen=seen, pictures_s=speed)

    def save(self) -> None:
        """Write the checkpoint's weights and the log."""
        names = [name for name in self.weights if not is_unused(name, self.config)]
        current = {name: self.model.get_parameter(parameter_name(name)).detach() for name in names}
        stored = {name: value.to(torch.bfloat16).contiguous() for name, value in (self.weights | current).items()}
        save_file(stored, self.settings.output / "model.safetensors", {"format": "pt"})
        write_text(self.settings.output / "pretrain.log", "\n".join(self.log.lines) + "\n")

    def keep_tower(self) -> None:
        """Keep the tower that learnt alone, with its log, for later runs."""
        path = self.settings.tower_file
        temporary = path.with_suffix(".tmp")
        save_file(self._seeing().state_dict(), temporary, {"log": json.dumps(self.log.lines)})
        os.replace(temporary, path)

    def take_tower(self) -> None:
        """Go on from the tower that learnt alone."""
        self._seeing().load_state_dict(load_file(self.settings.tower_file))
        with safe_open(self.settings.tower_file, "pt") as stored:
            self.log.lines[:] = json.loads(stored.metadata()["log"])

    def _seeing(self) -> nn.ModuleList:
        return nn.ModuleList([self.tower, self.questions])


def first_weights(config: ModelArgs, settings: PretrainConfig, pictures: Pictures, size: int) -> dict[str, torch.Tensor]:
    """What the model starts from: random, but for patch filters that see the principal parts of 1,500 pictures."""
    weights = initial_weights(config, settings.seed)
    rng = np.random.default_rng([settings.seed, 8])
    chosen = np.stack([pictures.crops[i] for i in rng.integers(settings.products - TESTED, size=1500)])
    shown = rng.integers((CROP_SIZE // size) ** 2, size=(1500, 16))
    see_principal_parts(weights, patches(chosen, shown, size).reshape(1500 * 16, -1))
    return weights


def build_model(config: ModelArgs, weights: dict[str, torch.Tensor]) -> Phi3VForCausalLM:
    """The model with these weights."""
    model = Phi3VForCausalLM(config)
    used = {parameter_name(name): value for name, value in weights.items() if not is_unused(name, config)}
    model.load_state_dict(used, strict=True)
    model.model.rotary_emb = RotaryEmbedding(config)
    return model


def train(rank: int, settings: PretrainConfig, meeting: str) -> None:
    """One worker's part; worker 0 logs and saves."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.workers)
    worker = Worker(rank, settings)
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    parameters = sum(value.numel() for value in worker.weights.values())
    worker.log(settings=shown, brand=BRAND)
    worker.log(parameters=parameters, vocab_size=worker.config.vocab_size, torch=torch.__version__)
    if not settings.tower_file.exists():
        worker.learn(0, settings.alone)
        if rank == 0:
            worker.keep_tower()
    distributed.barrier()
    worker.take_tower()
    worker.log(settings=shown)
    worker.learn(settings.alone, settings.alone + settings.joint_steps)
    distributed.barrier()
    distributed.destroy_process_group()


def write_checkpoint_files(settings: PretrainConfig) -> None:
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
    settings = parse(PretrainConfig, "python scripts/tiny/pretrain_tiny.py", __doc__ or "")
    write_checkpoint_files(settings)
    load_pictures(settings.cache, BRAND, settings.seed, settings.products, settings.workers)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (settings, os.path.join(folder, "meeting"))
        torch.multiprocessing.start_processes(train, arguments, nprocs=settings.workers, start_method="spawn")
    return 0


if __name__ == "__main__":
    run_cli(main)
