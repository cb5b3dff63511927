"""Catalogues: product photos with fields. `data.sample` draws one, `data.ingest` reads yours."""
