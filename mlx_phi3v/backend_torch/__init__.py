"""Phi-3-V in torch, from transformers' Phi-3 and CLIP parts and peft. The files mirror `backend_mlx`."""
