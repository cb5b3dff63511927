"""Phi-3-V in torch, from transformers' Phi-3 and CLIP parts and peft. The files mirror `backend_mlx`."""

import sys

if sys.platform == "linux":
    from ..linux_malloc import keep_freed_memory

    keep_freed_memory()
