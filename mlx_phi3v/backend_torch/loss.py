"""The loss of the learnt tokens, a chunk of their positions at a time."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ..config import LABELS_AT_ONCE
from ..prompts import IGNORE
from .checkpointing import checkpointed


def summed_loss(head: nn.Module, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy (nats, fp32) of `head(rows)`, [labels, H], with `targets` [labels]; IGNORE counts nothing.

    Never more than LABELS_AT_ONCE positions' logits are in memory: where there are more, those of a chunk are computed again
    for the gradient.
    """
    of_chunk = partial(_loss, head)
    if len(targets) <= LABELS_AT_ONCE:
        return of_chunk(rows, targets)
    run = checkpointed(of_chunk) if torch.is_grad_enabled() else of_chunk
    losses = [run(*chunk) for chunk in zip(rows.split(LABELS_AT_ONCE), targets.split(LABELS_AT_ONCE))]
    return torch.stack(losses).sum()


def _loss(head: nn.Module, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(head(rows).float(), targets, reduction="sum", ignore_index=IGNORE)
