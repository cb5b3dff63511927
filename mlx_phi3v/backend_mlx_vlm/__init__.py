"""Phi-3-V for mlx-vlm: with parts of `mlx_phi3v` it makes up a folder's `model_file`. Nothing in the project imports it."""
