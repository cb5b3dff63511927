"""Scoring: predict, compare two runs, hold both backends against the published model."""
