"""A model's answers for every product of a split -> a run."""
