"""Training: settings, loop, checkpoints, feature cache, memory."""
