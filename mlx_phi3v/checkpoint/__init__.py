"""Checkpoints on disk: layout, headers, writer, fingerprint, hub."""
