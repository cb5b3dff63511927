"""Names of a catalogue's own columns, for modules that need no Arrow."""

from __future__ import annotations

# The product that a row shows: the id of its first row, the same in all rows that share a code, a group or a photo. Found
# from the other columns, so no part of the fingerprint; catalogues of earlier versions lack it.
PRODUCT = "_product"
INGEST_FILE = "ingest.yaml"  # in a folder of rows: what `data.ingest` makes of its columns
