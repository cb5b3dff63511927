"""The built-in job: convert, tune on both backends, predict, compare."""
