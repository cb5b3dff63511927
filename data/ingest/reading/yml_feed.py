"""Yandex Market's YML, which marketplaces in many countries took: a list of categories, and offers that name one by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .markup import local_name

_ROOT, _OFFER = "yml_catalog", "offer"
_PARTS_OF_NAME = ("typePrefix", "vendor", "model")
_MOST_STEPS = 20  # of a category's path; more are a circle


class YmlCategories:
    """The paths of a feed's categories by their number."""

    def __init__(self, events: Iterable[tuple[str, Any]]) -> None:
        """`events` of the whole file, as lxml gives them; read up to the first offer."""
        named: dict[str, tuple[str, str | None]] = {}
        for event, element in events:
            tag = local_name(element.tag)
            if tag == _OFFER:
                break
            if tag == "category" and event == "end" and element.get("id"):
                named[element.get("id")] = (" ".join((element.text or "").split()), element.get("parentId"))
        self._paths = {number: self._path(number, named) for number in named}

    def _path(self, number: str, named: Mapping[str, tuple[str, str | None]]) -> str:
        steps: list[str] = []
        current: str | None = number
        while current in named and len(steps) < _MOST_STEPS:
            name, current = named[str(current)]
            steps.insert(0, name)
        return " > ".join(step for step in steps if step)

    def filled(self, row: dict[str, Any]) -> dict[str, Any]:
        """An offer with its category's path, and with a name made of kind, vendor and model where it has none."""
        number = row.get("categoryId")
        number = number[0] if isinstance(number, list) and number else number
        path = self._paths.get(str(number).strip()) if number is not None else None
        row = row if "category" in row or not path else row | {"category": path}
        parts = [str(row[key]) for key in _PARTS_OF_NAME if row.get(key) and not isinstance(row[key], (list, dict))]
        return row if row.get("name") or not row.get("model") else row | {"name": " ".join(parts)}


def is_yml(root: Any) -> bool:
    """Whether the root element of a file is that of a YML feed."""
    return local_name(root.tag) == _ROOT
