"""Phi-3-Vision fine-tuning on MLX, with a torch reference that gives the same numbers."""

from . import startup

__version__ = "0.1.0"

startup.begin()  # before anything heavy is imported
