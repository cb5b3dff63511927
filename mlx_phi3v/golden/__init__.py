"""Recorded outputs of the published code, run again on a backend: `eval.parity` takes all of them, `doctor` a few."""
