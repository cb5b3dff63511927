"""Catalogues: product photos with fields. `data.sample` draws one, `data.ingest` reads yours."""

import mlx_phi3v  # noqa: F401 (first of all: it answers signals from here on)
