"""Columns, prompts and templates of known exports and data sets, as YAML; see `data.ingest.known_exports`."""
