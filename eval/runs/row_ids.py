"""The ids of a split's rows, found also where a spreadsheet or pandas wrote them as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note

_NUMBER = re.compile(r"(?:0+(?=\d))?+(\d++)(?:\.0+)?")


class RowIds:
    """Ids as they are, without blanks around them, or, where one row alone fits, as the number that they are.

    Excel makes `0000012` the number 12, and pandas 12.0 where a row has none.
    """

    def __init__(self, ids: Iterable[str], where: str) -> None:
        self._ids, self._where = set(ids), where
        self._numbers: dict[str, str | None] = {}
        for identity in self._ids:
            if match := _NUMBER.fullmatch(identity):
                self._numbers[match[1]] = None if match[1] in self._numbers else identity
        self._said = False

    def find(self, given: str, place: str) -> str:
        """The row's own id. Raises UserError, naming `place`, where there is none."""
        if given in self._ids:
            return given
        if (plain := given.strip()) in self._ids:
            return plain
        match = _NUMBER.fullmatch(plain)
        found = self._numbers.get(match[1]) if match else None
        if found is None:
            raise UserError(
                f"{place}: {given!r} is no row of {self._where}, whose ids are such as {min(self._ids, default='')!r}"
            )
        if not self._said:
            note(f"{place}: the id {given!r} is read as {found!r}, as numbers without their zeros are")
            self._said = True
        return found
