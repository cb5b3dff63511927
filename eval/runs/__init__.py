"""Runs on disk: manifest, predictions, columns."""
