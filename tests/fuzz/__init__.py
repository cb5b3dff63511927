"""Mutated files of every kind, read by the code that a command reads them with; CONTRIBUTING.md says how to run more."""
