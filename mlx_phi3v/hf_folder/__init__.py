"""A checkpoint folder as it was published: for transformers, with the published Python code beside the weights."""
