"""Tokens in text that leaves the process: messages, tracebacks, pages and files that are uploaded."""

from __future__ import annotations

import os
import re

# Where tokens are given to the libraries that are used here.
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "TRACKIO_TOKEN")
_SHORTEST = 8  # what is shorter is a word as any other, and no token
_HIDDEN = "[hidden]"
# The tokens of the hub, whose letters say so, and what an address carries: NAME:PASSWORD@, ?token=..., a signature.
_TOKEN = re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}[\w.-]*")
_IN_ADDRESS = (
    (re.compile(r"(?<=://)[^/\s@]+(?=@)"), _HIDDEN),
    (re.compile(r"(?i)([?&](?:access_|api_|auth_)?(?:token|key|signature|x-amz-signature|x-amz-credential)=)[^&\s'\"]+"),
     rf"\1{_HIDDEN}"),
    (re.compile(r"(?i)\b(bearer )[\w.~+/=-]{8,}"), rf"\1{_HIDDEN}"),
)  # fmt: skip


def redacted(text: str) -> str:
    """`text` without the tokens of this process's environment, those of the hub, and those that an address carries.

    >>> redacted("GET https://me:secret@hub.example/api?token=abc")
    'GET https://[hidden]@hub.example/api?token=[hidden]'
    """
    for token in _own_tokens():
        text = text.replace(token, _HIDDEN)
    text = _TOKEN.sub(_HIDDEN, text)
    for pattern, instead in _IN_ADDRESS:
        text = pattern.sub(instead, text)
    return text


def holds_token(text: str) -> bool:
    """Whether `text` holds a token: of this process's environment, or one of the hub's form."""
    return any(token in text for token in _own_tokens()) or _TOKEN.search(text) is not None


def _own_tokens() -> list[str]:
    found = (os.environ.get(name, "").strip() for name in _VARIABLES)
    return sorted((token for token in found if len(token) >= _SHORTEST), key=len, reverse=True)
