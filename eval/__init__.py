"""Predict, score and compare runs; compare both backends with the published model."""
