"""Phi-3-Vision fine-tuning on MLX, with a torch reference that gives the same numbers."""

__version__ = "0.1.0"
