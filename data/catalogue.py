"""Where catalogues were read before: `mlx_phi3v.catalogue` reads them, `data.writer` writes them. Kept for users' code."""

from __future__ import annotations

from mlx_phi3v.catalogue import FORMAT, SPLITS, Catalogue, Split, iterate

from .writer import CatalogueWriter
from .writer import store_photo as store_picture

__all__ = ["FORMAT", "SPLITS", "Catalogue", "CatalogueWriter", "Split", "iterate", "store_picture"]
