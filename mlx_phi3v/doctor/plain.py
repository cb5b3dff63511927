"""The model once more, in numpy and fp64: what every stage of a backend is compared with.

Written straight from the published code, without anything of the backends, `rope` included. It is itself held against the
recorded outputs of that code. Shapes: N crops, S positions of a crop, T tokens, h heads, D head width, C tower width, H hidden
size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from ..checkpoint.layout import CLIP, VISION
from ..config import ModelArgs

Array = np.ndarray


@dataclass(frozen=True)
class PlainModel:
    """Weights by the checkpoint's keys, fp64, and the functions of the model's stages. All arrays are fp64."""

    config: ModelArgs
    weights: Mapping[str, Array]

    def tower_input(self, crops: Array) -> Array:
        """Crops [N, 3, 336, 336] -> [N, S, C]: patches, class token, positions, first norm."""
        vision, at = self.config.vision, CLIP + "embeddings."
        p, grid = vision.patch_size, vision.grid
        patches = crops.reshape(len(crops), vision.num_channels, grid, p, grid, p).transpose(0, 2, 4, 1, 3, 5)
        weight = self.weights[at + "patch_embedding.weight"]
        x = patches.reshape(len(crops), grid * grid, -1) @ weight.reshape(len(weight), -1).T
        start = np.broadcast_to(self.weights[at + "class_embedding"], (len(crops), 1, x.shape[-1]))
        x = np.concatenate([start, x], axis=1) + self.weights[at + "position_embedding.weight"]
        return self._layer_norm(x, CLIP + "pre_layrnorm")

    def tower_layer(self, i: int, x: Array) -> Array:
        """[N, S, C] -> [N, S, C]."""
        vision, at = self.config.vision, f"{CLIP}encoder.layers.{i}."
        normed, heads = self._layer_norm(x, at + "layer_norm1"), vision.num_attention_heads
        q, k, v = (_heads(self._linear(normed, f"{at}self_attn.{name}_proj"), heads) for name in "qkv")
        mixed = attention(q, k, v, (vision.hidden_size // heads) ** -0.5, causal=False)
        x = x + self._linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), at + "self_attn.out_proj")
        inner = self._linear(self._layer_norm(x, at + "layer_norm2"), at + "mlp.fc1")
        return np.asarray(x + self._linear(quick_gelu(inner), at + "mlp.fc2"))

    def merge(self, x: Array) -> Array:
        """[N, S, C] without its class token -> [N * g^2, 4C]: 2x2 neighbours side by side, row by row."""
        g = self.config.vision.merged_grid
        grid = x[:, 1:].reshape(len(x), g, 2, g, 2, -1)
        parts = [grid[:, :, a, :, b] for a in (0, 1) for b in (0, 1)]
        return np.concatenate(parts, axis=-1).reshape(len(x) * g * g, -1)

    def project(self, rows: Array) -> Array:
        """Merged features [rows, 4C], with both separators behind them, -> [rows + 2, H]."""
        ends = [self.weights[VISION + name].reshape(1, -1) for name in ("sub_GN", "glb_GN")]
        x = self._linear(np.concatenate([rows, *ends]), VISION + "img_projection.0")
        return self._linear(x * 0.5 * (1 + scipy.special.erf(x / math.sqrt(2))), VISION + "img_projection.2")

    def embed(self, input_ids: Array, image_index: Array, features: Array | None) -> Array:
        """[1, T] -> [1, T, H]; image tokens take their row of the table."""
        x: Array = self.weights["model.embed_tokens.weight"][np.maximum(input_ids, 0)]
        return x if features is None else np.where((image_index >= 0)[..., None], features[np.maximum(image_index, 0)], x)

    def rotary(self, positions: Array) -> Array:
        """cos and sin [2, T, D] of positions [T] that start at 0, with the factors of a text of that length."""
        config, d = self.config, self.config.head_dim
        original, most = config.original_max_position_embeddings, config.max_position_embeddings
        factors = config.long_factor if positions.max() + 1 > original else config.short_factor
        scale = math.sqrt(1 + math.log(most / original) / math.log(original)) if factors and most > original else 1.0
        frequencies = 1 / (np.array(factors or 1.0) * config.rope_theta ** (np.arange(0, d, 2) / d))
        angles = np.tile(positions[:, None] * frequencies, 2)
        return scale * np.stack([np.cos(angles), np.sin(angles)])

    def decoder_layer(self, i: int, x: Array, rotary: Array) -> Array:
        """[1, T, H] -> [1, T, H]."""
        config, at = self.config, f"model.layers.{i}."
        kv, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
        qkv = _heads(self._linear(self._rms_norm(x, at + "input_layernorm"), at + "self_attn.qkv_proj"), -1, config.head_dim)
        q, k, v = np.split(qkv, [config.num_attention_heads, config.num_attention_heads + kv], axis=1)
        q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = attention(q, k.repeat(groups, 1), v.repeat(groups, 1), config.head_dim**-0.5, causal=True)
        x = x + self._linear(mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1), at + "self_attn.o_proj")
        inner = self._linear(self._rms_norm(x, at + "post_attention_layernorm"), at + "mlp.gate_up_proj")
        return np.asarray(x + self._linear(swiglu(inner), at + "mlp.down_proj"))

    def logits(self, x: Array) -> Array:
        """The last layer's [1, T, H] -> norm and head -> [1, T, V]."""
        return self._linear(self._rms_norm(x, "model.norm"), "lm_head")

    def _linear(self, x: Array, name: str) -> Array:
        bias = self.weights.get(name + ".bias")
        product = x @ self.weights[name + ".weight"].T
        return np.asarray(product if bias is None else product + bias)

    def _layer_norm(self, x: Array, name: str) -> Array:
        return layer_norm(x, self.weights[name + ".weight"], self.weights[name + ".bias"], self.config.vision.layer_norm_eps)

    def _rms_norm(self, x: Array, name: str) -> Array:
        return rms_norm(x, self.weights[name + ".weight"], self.config.rms_norm_eps)


def rounded(x: Array, dtype: str) -> Array:
    """Numbers as the dtype holds them, fp32: the nearest, of two as near the even one."""
    if dtype == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return x.astype(dtype).astype(np.float32)


def _heads(x: Array, heads: int, width: int = -1) -> Array:
    """[N, T, h * D] -> [N, h, T, D]."""
    return x.reshape(*x.shape[:2], heads, width).transpose(0, 2, 1, 3)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _attended(q: Array, k: Array, scale: float, *, causal: bool) -> Array:
    """How much of each key a query takes: softmax(scale * q k^T)."""
    scores = scale * (q @ k.swapaxes(-1, -2))
    if causal:
        scores = np.where(np.tri(scores.shape[-2], scores.shape[-1], dtype=bool), scores, -np.inf)
    return softmax(scores)


def attention(q: Array, k: Array, v: Array, scale: float, *, causal: bool) -> Array:
    """softmax(scale * q k^T) v of [..., T, D]."""
    return np.asarray(_attended(q, k, scale, causal=causal) @ v)


def attention_gradient(q: Array, k: Array, v: Array, scale: float, d: Array, *, causal: bool) -> list[Array]:
    """The gradients of `attention` by q, k and v, with d that of its result."""
    p = _attended(q, k, scale, causal=causal)
    d_p = d @ v.swapaxes(-1, -2)
    d_scores = scale * p * (d_p - (d_p * p).sum(-1, keepdims=True))
    return [d_scores @ k, d_scores.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ d]


def rotate(x: Array, rotary: Array) -> Array:
    """RoPE of [..., T, D]."""
    half = x.shape[-1] // 2
    return np.asarray(x * rotary[0] + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * rotary[1])


def lora_and_gradients(x: Array, weight: Array, a: Array, b: Array, d: Array, scale: float) -> list[Array]:
    """x weight^T + scale (x a) b of [rows, in], and its gradients by x, a and b, with d that of its result."""
    low = scale * d @ b.T
    return [x @ weight.T + scale * (x @ a) @ b, d @ weight + low @ a.T, x.T @ low, scale * (x @ a).T @ d]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias)


def layer_norm_gradients(x: Array, weight: Array, d: Array, eps: float) -> list[Array]:
    """The gradients of `layer_norm` of [rows, C] by x, weight and bias, with d that of its result."""
    centred = x - x.mean(-1, keepdims=True)
    root = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    normed, g = centred / root, d * weight
    d_x = (g - g.mean(-1, keepdims=True) - normed * (g * normed).mean(-1, keepdims=True)) / root
    return [d_x, (d * normed).sum(0), d.sum(0)]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Over the last axis."""
    return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight)


def rms_norm_gradients(x: Array, weight: Array, d: Array, eps: float) -> list[Array]:
    """The gradients of `rms_norm` of [rows, C] by x and weight, with d that of its result."""
    root = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    normed, g = x / root, d * weight
    return [(g - normed * (g * normed).mean(-1, keepdims=True)) / root, (d * normed).sum(0)]


def swiglu(x: Array) -> Array:
    """silu(gate) * up of [..., 2I], the gate first."""
    gate, up = np.split(x, 2, axis=-1)
    return np.asarray(gate * scipy.special.expit(gate) * up)


def swiglu_gradient(x: Array, d: Array) -> Array:
    """The gradient of `swiglu`, with d that of its result."""
    gate, up = np.split(x, 2, axis=-1)
    s = scipy.special.expit(gate)
    return np.concatenate([d * up * s * (1 + gate * (1 - s)), d * gate * s], axis=-1)


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x)."""
    return np.asarray(x * scipy.special.expit(1.702 * x))


def quick_gelu_gradient(x: Array, d: Array) -> Array:
    """The gradient of `quick_gelu`, with d that of its result."""
    s = scipy.special.expit(1.702 * x)
    return np.asarray(d * s * (1 + 1.702 * x * (1 - s)))


def draw(logits: Array, how: Sequence[float], width: int) -> tuple[int, float]:
    """The token of [V] that `sampling.Draws` says, and how far its numbers are from another's, as a share of the whole.

    how: the row's line of `sampling.Draws.columns`.
    """
    temperature, top_p, first, second = how
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-weights)
    likelier = (np.cumsum(weights[order]) - weights[order]) / weights.sum()
    distances = [float(np.abs(likelier[1:] - top_p).min())] if top_p < 1 else []
    weights[order[likelier >= top_p]] = 0
    token, groups = 0, weights.reshape(-1, width)
    for choices, number in ((groups.sum(axis=-1), first), (groups, second)):
        of = choices if choices.ndim == 1 else choices[token]
        ends = np.cumsum(of) / of.sum()
        place = int(np.searchsorted(ends, number, side="right"))
        distances.append(float(np.abs(ends - number).min()))
        token = token * width + place if choices.ndim == 2 else place
    return token, min(distances)
