"""Phi-3-V in MLX. `backend_torch` mirrors it. `backend.set_up` prepares the process before MLX is imported."""
