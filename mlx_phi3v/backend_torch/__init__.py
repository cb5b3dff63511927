"""Phi-3-V in torch, from transformers' Phi-3 and CLIP parts and peft. It mirrors `backend_mlx`."""
