"""A model's answers for every row of a split, as a run."""
