"""The scores of a batch's next tokens on CUDA: see `next_tokens`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..next_tokens import HostScores, NextTokens, Scores, group_width
from ..sampling import Draws
from .device import to_device


def scores(logits: torch.Tensor, *, on_device: bool) -> Scores:
    """The scores in logits [B, V]. on_device: left where they are; nothing is waited for."""
    logits = logits.detach().float()
    return DeviceScores(logits) if on_device else HostScores(logits.cpu().numpy())


class DeviceScores:
    """See `next_tokens.Scores`. Logits fp32 [B, V]."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def greedy(self) -> torch.Tensor:
        """See `Scores`."""
        return self.logits.argmax(dim=-1)

    @torch.inference_mode()
    def draw(self, draws: Draws) -> torch.Tensor:
        """See `Scores`."""
        temperature, top_p, first, second = to_device(draws.columns, self.logits.device).split(1, dim=-1)
        top = self.logits.amax(dim=-1, keepdim=True)
        weights = ((self.logits - top) / torch.where(temperature > 0, temperature, 1)).exp()
        if draws.any_nucleus:
            weights = torch.where(weights >= _least_in_nucleus(weights, top_p), weights, 0)
        width = group_width(weights.shape[-1])
        groups = weights.unflatten(-1, (-1, width))
        group = _place(groups.sum(dim=-1, dtype=torch.float64), first)
        token = _place(groups.gather(1, group[:, :, None].expand(-1, -1, width))[:, 0], second)
        drawn = (group * width + token)[:, 0]
        return torch.where(temperature[:, 0] > 0, drawn, self.greedy()) if draws.any_greedy else drawn

    @torch.inference_mode()
    def read(self, tokens: Any, k: int) -> NextTokens | None:
        """See `Scores`."""
        tokens = tokens if isinstance(tokens, torch.Tensor) else to_device(tokens, self.logits.device)
        top = self.logits.amax(dim=-1, keepdim=True)
        total = (self.logits - top).exp().sum(dim=-1, keepdim=True).log()
        ids = likeliest(self.logits, k)
        k = ids.shape[-1]
        wanted = torch.cat([tokens[:, None], ids], dim=-1)
        logprobs = (self.logits.gather(-1, wanted) - top) - total
        finite = self.logits.isfinite().all().expand(len(tokens), 1)
        # One copy: fp64 holds every id.
        read = torch.cat([wanted.double(), logprobs.double(), finite.double()], dim=-1).cpu().numpy()
        if not read[:, -1].all():
            return None
        whole, fractions = read[:, : k + 1].astype(np.int64), read[:, k + 1 : -1]
        return NextTokens(whole[:, 0], fractions[:, 0], whole[:, 1:], fractions[:, 1:])

    def rows(self, rows: Sequence[int]) -> DeviceScores:
        """See `Scores`."""
        return DeviceScores(self.logits[to_device(np.array(rows), self.logits.device)])

    def join(self, *others: DeviceScores) -> DeviceScores:
        """See `Scores`."""
        return DeviceScores(torch.cat([self.logits, *(other.logits for other in others)]))

    def numpy(self) -> np.ndarray:
        """See `Scores`."""
        return self.logits.cpu().numpy()


def _least_in_nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The smallest weight [B, 1] of [B, V] that counts, see `sampling.Draws`."""
    ordered = weights.sort(dim=-1, descending=True).values
    running = ordered.cumsum(dim=-1, dtype=torch.float64)
    counts = running - ordered < top_p * running[:, -1:]
    return torch.where(counts, ordered, torch.inf).amin(dim=-1, keepdim=True)


def _place(weights: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """[B, n], [B, 1] -> [B, 1]; see `next_tokens`."""
    running = weights.cumsum(dim=-1, dtype=torch.float64)
    beyond = running > number * running[:, -1:]
    return ((weights > 0) * (1 + beyond.int())).argmax(dim=-1, keepdim=True)


def likeliest(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of fp32 [B, V] in falling order: ids [B, k]. See `next_tokens.likeliest`.

    torch: topk leaves open which of equal numbers it takes. So the numbers' bits, which as integers are in the same order
    once those of negative numbers are turned, become the upper half of an int64 that ends in the token's place from the end.
    """
    bits = (logits + 0.0).view(torch.int32)  # -0.0 is 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    backwards = torch.arange(logits.shape[-1] - 1, -1, -1, device=logits.device)
    keys = ordered.long() * 2**32 + backwards
    return keys.topk(min(k, logits.shape[-1]), dim=-1).indices
