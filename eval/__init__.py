"""Predict, score and compare runs; compare both backends with the published model."""

import mlx_phi3v  # noqa: F401 (first of all: it answers signals from here on)
