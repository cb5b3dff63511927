"""Each stage of a loaded model alone, on given numbers: numpy in, fp32 numpy out. See `doctor.plain.PlainModel`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .. import rope
from .arrays import dtype, to_numpy
from .backend import MLXBackend


class Stages:
    """The stages of a model; inputs are rounded to its dtype."""

    def __init__(self, backend: MLXBackend) -> None:
        self.model, self.config = backend.model, backend.config
        self.dtype = dtype(backend.dtype)
        self.tower = self.model.model.vision_embed_tokens.img_processor.vision_model

    def _array(self, x: np.ndarray) -> mx.array:
        return mx.array(x.astype(np.float32)).astype(self.dtype)

    def tower_input(self, crops: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.tower.pre_layrnorm(self.tower.embeddings(mx.array(crops.astype(np.float32)))))

    def tower_layer(self, i: int, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.tower.encoder.layers[i](self._array(x)))

    def merge(self, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.model.model.vision_embed_tokens.merge(self._array(x[:, 1:])))

    def project(self, rows: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        image_side, x = self.model.model.vision_embed_tokens, self._array(rows)
        return to_numpy(image_side.project(mx.concatenate([x, image_side.sub_GN(x), image_side.glb_GN(x)])))

    def embed(self, input_ids: np.ndarray, image_index: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """See `PlainModel`."""
        table = None if features is None else self._array(features)
        return to_numpy(self.model.model.embed(mx.array(input_ids), mx.array(image_index), table))

    def rotary(self, positions: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        use_long = rope.uses_long_factor(self.config, mx.array([len(positions)]))
        both = self.model.model.rotary_emb(mx.array(positions)[None], use_long, self.dtype)
        return np.stack([to_numpy(x)[0, 0] for x in both])

    def decoder_layer(self, i: int, x: np.ndarray, rotary: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        cos, sin = (self._array(x)[None, None] for x in rotary)
        return to_numpy(self.model.model.layers[i](self._array(x), cos, sin, "causal"))

    def logits(self, x: np.ndarray) -> np.ndarray:
        """See `PlainModel`."""
        return to_numpy(self.model.lm_head(self.model.model.norm(self._array(x))))
