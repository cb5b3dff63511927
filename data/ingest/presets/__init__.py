"""Columns, prompts and templates of known data sets, as YAML."""
