"""LM Studio's mlx-engine as a test double: its documented calls of mlx-vlm, in its order, without its server.

Read in lmstudio-ai/mlx-engine of 2026-08-21 (commit 08f0c07): `generate.py:load_model`, and of `model_kit/batched_vision`
`model_kit.py`, `prompt_inputs.py` and `batch_generator.py`. A test next to this one runs its own code where it is installed.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import mlx_vlm.utils
from mlx_vlm.models.cache import make_prompt_cache
from PIL import Image

PREFILL_STEP = 512


class Engine:
    """A folder loaded as mlx-engine loads it with its defaults."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        if "vision_config" not in config:  # then it asks the model first whether it can be batched
            model: Any = mlx_vlm.utils.load_model(folder, lazy=True)
            assert all(hasattr(cache, "merge") for cache in make_prompt_cache(getattr(model, "language_model", model)))
        assert mlx_vlm.utils.load_image_processor(folder, trust_remote_code=False) is None
        eos = config.get("eos_token_id")
        eos_ids = [eos] if isinstance(eos, int) else eos
        self.processor: Any = mlx_vlm.utils.load_processor(folder, True, eos_token_ids=eos_ids, trust_remote_code=False)
        # The tokens that end an answer in most models (`utils/eot_tokens.py`), where the tokenizer has them.
        criteria, known = self.processor.tokenizer.stopping_criteria, self.processor.tokenizer.get_vocab()
        criteria.reset([*(eos_ids or []), *(known[word] for word in ("<|end|>", "<|endoftext|>") if word in known)])
        self._folder = folder

    def ask(self, prompt: str, photos: list[Image.Image], tokens: int) -> list[int]:
        """Greedy ids. The model is loaded and used in a thread of its own, the prompt prepared in this one."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt))
        inputs: dict[str, Any] = {"input_ids": mx.array([ids])}
        if photos:
            inputs = mlx_vlm.prepare_inputs(
                processor=self.processor,
                images=photos,
                prompts=tokenizer.decode(ids),
                image_token_index=None,
                resize_shape=None,
            )
        found: list[Any] = []
        worker = threading.Thread(target=lambda: found.append(self._guarded(inputs, tokens)))
        worker.start()
        worker.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return list(found[0])

    def _guarded(self, inputs: dict[str, Any], tokens: int) -> Any:
        try:
            return self._generate(inputs, tokens)
        except Exception as error:
            return error

    def _generate(self, inputs: dict[str, Any], tokens: int) -> list[int]:
        model = mlx_vlm.utils.load_model(self._folder, lazy=False, trust_remote_code=False)
        ids, pixels = inputs["input_ids"], inputs.get("pixel_values")
        rest = {key: value for key, value in inputs.items() if key not in {"input_ids", "pixel_values", "attention_mask"}}
        if pixels is None:
            embedded = model.get_input_embeddings(ids)
        else:
            embedded = model.get_input_embeddings(ids, pixels, mask=inputs.get("attention_mask"), **rest)
        cache, language = make_prompt_cache(model.language_model), model.language_model
        embeddings = embedded.inputs_embeds
        while embeddings.shape[1] > PREFILL_STEP:
            language(ids[:, :PREFILL_STEP], cache=cache, inputs_embeds=embeddings[:, :PREFILL_STEP], **rest)
            mx.eval([entry.state for entry in cache])
            ids, embeddings = ids[:, PREFILL_STEP:], embeddings[:, PREFILL_STEP:]
        logits = language(ids, cache=cache, inputs_embeds=embeddings, logits_to_keep=1, **rest).logits
        cache = [entry.merge([entry]) for entry in cache]  # it joins a batch
        answer: list[int] = []
        while len(answer) < tokens:
            answer.append(int(logits[:, -1].argmax(-1).item()))
            if self.processor.tokenizer.stopping_criteria(answer[-1]):
                break
            logits = language(mx.array([[answer[-1]]]), cache=cache).logits
        return answer
