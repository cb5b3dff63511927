"""Three photos in a model's folder with the log-probabilities that it must give, by which any tool's computation is checked."""
