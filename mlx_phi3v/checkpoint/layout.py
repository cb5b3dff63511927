"""Which tensors a checkpoint of the published layout holds, with their shapes; before and after quantisation."""

from __future__ import annotations

import re

from ..config import ModelArgs

VISION = "model.vision_embed_tokens."
CLIP = VISION + "img_processor.vision_model."
EMBEDDING = "model.embed_tokens.weight"
EMBEDDING_COPY = VISION + "wte.weight"  # the published class's second name for it, which fine-tuned checkpoints store too
QUANTIZED = re.compile(r"model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)")


def expected_tensors(config: ModelArgs) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the published layout (592 in Phi-3-vision), before quantisation."""
    v, hidden, merged = config.vision, config.hidden_size, 4 * config.vision.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    shapes |= {VISION + "glb_GN": (1, 1, merged), VISION + "sub_GN": (1, 1, 1, merged)}
    shapes |= {VISION + "img_projection.0.weight": (hidden, merged), VISION + "img_projection.0.bias": (hidden,)}
    shapes |= {VISION + "img_projection.2.weight": (hidden, hidden), VISION + "img_projection.2.bias": (hidden,)}
    shapes |= {CLIP + "embeddings.class_embedding": (v.hidden_size,)}
    shapes |= {CLIP + "embeddings.patch_embedding.weight": (v.hidden_size, v.num_channels, v.patch_size, v.patch_size)}
    shapes |= {CLIP + "embeddings.position_embedding.weight": (v.grid**2 + 1, v.hidden_size)}

    def layer(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {name + ".weight": (rows, columns), name + ".bias": (rows,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {name + ".weight": (v.hidden_size,), name + ".bias": (v.hidden_size,)}

    shapes |= norm(CLIP + "pre_layrnorm") | norm(CLIP + "post_layernorm")
    for i in range(v.num_hidden_layers):
        at = f"{CLIP}encoder.layers.{i}."
        shapes |= norm(at + "layer_norm1") | norm(at + "layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= layer(at + "self_attn." + name, v.hidden_size, v.hidden_size)
        shapes |= layer(at + "mlp.fc1", v.intermediate_size, v.hidden_size)
        shapes |= layer(at + "mlp.fc2", v.hidden_size, v.intermediate_size)
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        shapes[at + "self_attn.qkv_proj.weight"] = (config.qkv_size, hidden)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, config.num_attention_heads * config.head_dim)
        shapes[at + "mlp.gate_up_proj.weight"] = (2 * config.intermediate_size, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, config.intermediate_size)
        shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (config.vocab_size, hidden)}


def stored_tensors(config: ModelArgs) -> dict[str, tuple[int, ...]]:
    """`expected_tensors` as they are stored: a quantised weight is packed, and has scales and biases."""
    shapes = expected_tensors(config)
    q = config.quantization
    for name, shape in list(shapes.items() if q else ()):
        if q and is_quantized(name):
            rows, columns = shape
            shapes[name] = (rows, columns * q.bits // 32)
            shapes[name.replace(".weight", ".scales")] = shapes[name.replace(".weight", ".biases")] = (
                rows,
                columns // q.group_size,
            )
    return shapes


def is_quantized(name: str) -> bool:
    """Whether conversion with -q packs this weight: the four projections of a language layer."""
    return bool(QUANTIZED.fullmatch(name.removesuffix(".weight")))


def is_packed(name: str, config: ModelArgs) -> bool:
    """Whether a checkpoint of this configuration stores the tensor as packed words, not as floats."""
    return config.quantization is not None and name.endswith(".weight") and is_quantized(name)


def is_unused(name: str, config: ModelArgs) -> bool:
    """Whether the model never reads this tensor: the features are `hidden_states[-2]`."""
    last = f"{CLIP}encoder.layers.{config.vision.num_hidden_layers - 1}."
    return name.startswith((last, CLIP + "post_layernorm.")) or name.endswith("position_ids")
