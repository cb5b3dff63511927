"""The content security policy of a page of ours, which lets only its own script and style act."""

from __future__ import annotations

import base64
import hashlib


def csp_hash(text: str) -> str:
    """A text's hash as a content security policy gives it."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
