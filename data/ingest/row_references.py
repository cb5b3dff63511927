"""The pictures that a row names by its mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .mapping import FieldMapping
from .paths_in_row import resolve
from .picture_pattern import fill_pattern, is_pattern
from .picture_references import below, is_base_url, photo_references


def row_references(mapping: FieldMapping, values: Mapping[str, Any]) -> list[Any]:
    """The photos that a row names, in the order of the image columns: bytes, paths or URLs."""
    found = []
    for image in mapping.images:
        value = fill_pattern(image, values) if is_pattern(image) else resolve(values, image)
        found += photo_references(value, mapping.separator)
    base = mapping.image_root if mapping.image_root and is_base_url(mapping.image_root) else None
    return [below(base, item) for item in found] if base else found
