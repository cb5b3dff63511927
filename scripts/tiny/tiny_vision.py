"""The tower alone: features of some patches, and questions about what they show."""

from __future__ import annotations

import numpy as np
import torch
from tiny_data import LOOKS, TESTED, Data
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, smooth_l1_loss

from mlx_phi3v.backend_torch.vision import VisionModel


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


def look_at(tower: VisionModel, seen: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Features [N, K, C] of some patches [N, K, 3 * size^2] alone: as the tower's forward, without the class token's."""
    embeddings = tower.embeddings
    patches = linear(seen, embeddings.patch_embedding.weight.flatten(1)) + embeddings.position_embedding.weight[shown + 1]
    first = (embeddings.class_embedding + embeddings.position_embedding.weight[0]).expand(len(patches), 1, -1)
    x: torch.Tensor = tower.pre_layrnorm(torch.cat([first, patches], dim=1))
    for layer in tower.encoder.layers:
        x = layer(x, attention_mask=None)
    return x[:, 1:]


@torch.no_grad()
def examine(tower: VisionModel, questions: Questions, data: Data) -> dict[str, float]:
    """How often the looks of the pictures held out for testing are named."""
    rights = []
    for first in range(data.settings.products - TESTED, data.settings.products, 50):
        rng = np.random.default_rng([first, 6])
        step = data.step(np.arange(first, first + 50), rng, keep=1.0, joint=False)
        assert step.patches is not None
        rights.append(questions(look_at(tower, step.patches, step.shown), step.looks, step.share, step.place)[1])
    return dict(zip(LOOKS, torch.stack(rights).mean(0).double().numpy().round(4).tolist()))
