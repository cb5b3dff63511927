"""Each stage of a loaded model alone, on given numbers: numpy in, fp32 numpy out. See `doctor.plain.PlainModel`."""

from __future__ import annotations

import numpy as np
import torch

from .. import rope
from .backend import TorchBackend, to_numpy


class Stages:
    """The stages of a model; inputs are rounded to its dtype."""

    def __init__(self, backend: TorchBackend) -> None:
        self.model, self.config = backend.model, backend.config
        self.dtype = getattr(torch, backend.dtype)
        self.device = backend.device
        self.tower = self.model.model.vision_embed_tokens.img_processor.vision_model

    def _array(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x.astype(np.float32)).to(self.device, self.dtype)

    def tower_input(self, crops: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        pixels = torch.from_numpy(crops.astype(np.float32)).to(self.device)
        return to_numpy(self.tower.pre_layrnorm(self.tower.embeddings(pixels)))

    def tower_layer(self, i: int, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.tower.encoder.layers[i](self._array(x), attention_mask=None))

    def merge(self, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.model.model.vision_embed_tokens.merge(self._array(x[:, 1:])))

    def project(self, rows: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        image_side, x = self.model.model.vision_embed_tokens, self._array(rows)
        return to_numpy(image_side.project(torch.cat([x, image_side.sub_GN(x), image_side.glb_GN(x)])))

    def embed(self, input_ids: np.ndarray, image_index: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """See `PlainModel`."""
        ids, index = (torch.from_numpy(x).to(self.device) for x in (input_ids, image_index))
        return to_numpy(self.model.model.embed(ids, index, None if features is None else self._array(features)))

    def rotary(self, positions: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        use_long = rope.uses_long_factor(self.config, torch.tensor([len(positions)], device=self.device))
        placed = torch.from_numpy(positions).to(self.device)[None]
        return np.stack([to_numpy(x)[0] for x in self.model.model.rotary_emb(placed, use_long, self.dtype)])

    def decoder_layer(self, i: int, x: np.ndarray, rotary: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        cos, sin = (self._array(x)[None] for x in rotary)
        layer = self.model.model.layers[i]
        return to_numpy(layer(self._array(x), attention_mask=None, past_key_values=None, position_embeddings=(cos, sin)))

    def logits(self, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.model.lm_head(self.model.model.norm(self._array(x))))
