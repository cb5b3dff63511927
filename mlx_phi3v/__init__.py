"""Phi-3-Vision fine-tuning on MLX, with a torch reference that gives the same numbers."""

from . import interrupts

__version__ = "0.1.0"

interrupts.begin()  # before anything heavy is imported
