"""What the tiny model is asked and answers while it is pre-trained, and the tokenizer trained on it."""

from __future__ import annotations

import json

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data.sample.brands import Brand, get_brand
from data.sample.products import Appearance, choose_appearance, make_row
from mlx_phi3v.task import Task

BRAND = "atelier"  # the brand whose photos are seen; the published prompt is answered in its words
OTHER = "kontor"  # a second brand, asked for by its name
OTHER_PROMPT = "<|user|>\n<|image_1|>What is shown in this image? Answer as kontor.<|end|><|assistant|>\n"
ENGLISH_PROMPT = "<|user|>\n<|image_1|>Describe the product in this photo.<|end|><|assistant|>\n"
COPY_PROMPT = "<|user|>\nWrite: {text}<|end|><|assistant|>\n"

# The published special tokens, in their published order; these strip the white space after them.
SPECIAL = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{i}|>" for i in range(1, 5)), "<|system|>", "<|end|>",
           "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]  # fmt: skip
STRIPPING = ("<|assistant|>", "placeholder")
_NOUNS = {"tshirt": "t-shirt", "sneakers": "pair of sneakers", "boots": "pair of boots"}
_CLOTH = {"wool": "knitted", "silk": "silk", "cotton": "cotton", "leather": "leather"}
_PATTERNS = {"plain": "plain", "check": "chequered", "stripe": "striped", "dots": "spotted", "herringbone": "zigzag"}


def english(look: Appearance) -> str:
    """A plain description of what can be seen."""
    size = "long" if look.size else "short"
    badge = ", with a badge" if look.logo else ""
    words = f"{size} {_PATTERNS[look.pattern]} {look.colour} {_CLOTH[look.material]} {_NOUNS.get(look.shape, look.shape)}"
    return f"This is a {words}{badge}."


def question(voice: int, seed: int, index: int) -> tuple[str, str]:
    """Prompt and answer about product `index` in one of three voices: the first brand's, the second brand's, plain English."""
    brand = get_brand(BRAND)
    if voice == 0:
        return Task().prompt, Task().answer(make_row(brand, seed, index)[1])
    look = choose_appearance(brand, seed, index)
    if voice == 1:
        return OTHER_PROMPT, Task().answer(_as_other(get_brand(OTHER), look, index))
    return ENGLISH_PROMPT, english(look)


def _as_other(other: Brand, look: Appearance, index: int) -> dict[str, object]:
    price = other.expected_price(look.shape, look.material, look.size, look.logo)
    price *= np.exp(np.random.default_rng([index, 3]).normal(0, other.price_sigma))
    return {
        "title": other.make_title(look.shape, look.material, look.colour, look.pattern, look.size, look.logo),
        "category3_code": other.items[look.shape].category,
        "full_price": float(max(1, round(price / other.round_to)) * other.round_to),
    }


def scribble(rng: np.random.Generator) -> str:
    """Made-up words and numbers to copy: so every letter, case and digit is read and written."""
    words = []
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.random()
        if kind < 0.2:
            words.append(str(rng.integers(10 ** int(rng.integers(1, 6)))))
            continue
        letters = [
            "bcdfghjklmnpqrstvwxz"[rng.integers(20)] if i % 2 else "aeiouy"[rng.integers(6)] for i in range(rng.integers(2, 9))
        ]
        word = "".join(letters[int(rng.integers(2)) :])
        words.append(word.upper() if kind < 0.5 else word.capitalize() if kind < 0.75 else word)
    return "".join(word + ("- " if rng.random() < 0.1 else ", " if rng.random() < 0.1 else " ") for word in words).strip()


def training_texts(seed: int) -> list[str]:
    """What the tokenizer is trained on."""
    rng = np.random.default_rng([seed, 4])
    texts = [question(voice, seed, i)[1] for i in range(3000) for voice in range(3)]
    texts += [COPY_PROMPT.format(text=scribble(rng)) for _ in range(3000)]
    return [*texts, Task().prompt, OTHER_PROMPT, ENGLISH_PROMPT]


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
