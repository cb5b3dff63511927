"""Reports to W&B, TensorBoard and trackio: what they are given, one module each, and what keeps them away from training."""
