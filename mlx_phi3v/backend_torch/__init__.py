"""Phi-3-V in torch, from transformers' Phi-3 and CLIP modules and peft. It mirrors `backend_mlx`."""
