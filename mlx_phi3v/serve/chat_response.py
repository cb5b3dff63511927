"""Answers in the form of OpenAI's chat completions: whole, or as a stream of server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ..batches import Example
from ..decoding import Generation, answer_text
from .models import ServedModel

FINISH = {"end": "stop", "length": "length"}


@dataclass(frozen=True)
class Completion:
    """What every piece of one answer has in common."""

    model: ServedModel
    example: Example
    logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Generation) -> dict[str, Any]:
        """The answer as one object."""
        message = {"role": "assistant", "content": answer_text(answer, self.model.loaded.prompts)}
        choice = {"index": 0, "message": message, "finish_reason": FINISH[answer.finish], "logprobs": self._tokens(answer)}
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage(answer)}

    def chunk(self, delta: dict[str, Any], answer: Generation | None = None) -> dict[str, Any]:
        """A piece of a stream; the last one with the whole answer, for how it ended."""
        finish = None if answer is None else FINISH[answer.finish]
        logprobs = None if answer is None else self._tokens(answer)
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def usage_chunk(self, answer: Generation) -> dict[str, Any]:
        """The piece after the last, where the client asks for the usage."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage(answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model.name,
            "system_fingerprint": f"fp_{self.model.loaded.fingerprint[:16]}",
        }  # fmt: skip

    def _usage(self, answer: Generation) -> dict[str, int]:
        """Tokens of the prompt with its photos, and of the answer with its end token."""
        prompt, completion = len(self.example.input_ids), len(answer.token_ids)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _tokens(self, answer: Generation) -> dict[str, Any] | None:
        """The answer's tokens with their natural-log probabilities, and the likeliest of each place; not its end token."""
        if not self.logprobs:
            return None
        count = len(answer.token_ids) - (answer.finish == "end")
        top = answer.top_k or [[] for _ in answer.token_ids]
        return {
            "content": [
                self._token(token, logprob) | {"top_logprobs": [self._token(*pair) for pair in pairs]}
                for token, logprob, pairs in list(zip(answer.token_ids, answer.logprobs, top))[:count]
            ]
        }

    def _token(self, number: int, logprob: float) -> dict[str, Any]:
        data = self.model.texts.bytes_of(number)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def event(value: Any) -> str:
    """A server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"
