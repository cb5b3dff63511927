"""The first rows of products, by the product's name: the latest in memory, the others in a scratch file."""

from __future__ import annotations

import itertools
import pickle
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_MOST_IN_MEMORY = 50_000
_MOVED_AT_ONCE = 5_000


@dataclass
class Group:
    """A product's name, all keys it is found by, and for the columns of each field the first values that a row of it has."""

    name: str
    keys: list[str]
    first: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)


class Groups:
    """Groups by name and alias. Memory does not grow with them: those that were not asked for longest go to a scratch file."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Group] = OrderedDict()
        self._stored: sqlite3.Connection | None = None

    def get(self, name: str) -> Group | None:
        """The group of this name or alias, or None."""
        group = self._held.get(name)
        if self._stored is None:
            return group
        if group is not None:
            for key in group.keys:
                self._held.move_to_end(key)
            return group
        found = self._stored.execute("SELECT value FROM groups WHERE key = ?", (_key(name),)).fetchone()
        if found is None:
            return None
        value = pickle.loads(found[0])  # of our own scratch file
        if isinstance(value, str):  # an alias of this name
            return self.get(value)
        self._hold(value, value.keys)
        return value  # type: ignore[no-any-return]

    def add(self, name: str) -> Group:
        """A new group."""
        group = Group(name, [name])
        self._hold(group, [name])
        return group

    def add_alias(self, alias: str, group: Group) -> None:
        """Let a group that was just got be found by another name too, unless that is one already."""
        if alias not in group.keys and self.get(alias) is None:
            group.keys.append(alias)
            self._hold(group, [alias])

    def _hold(self, group: Group, keys: Iterable[str]) -> None:
        self._held |= dict.fromkeys(keys, group)
        if len(self._held) > _MOST_IN_MEMORY:
            self._store()

    def _store(self) -> None:
        """Move the groups that were not asked for longest to the scratch file, each with all of its keys."""
        if self._stored is None:
            # An empty name is a file that SQLite itself removes when it is closed, also after a kill.
            self._stored = sqlite3.connect("", isolation_level=None)
            self._stored.execute("CREATE TABLE groups (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        moved: list[tuple[bytes, bytes]] = []
        for key in list(itertools.islice(self._held, _MOVED_AT_ONCE)):
            group = self._held.get(key)
            for name in group.keys if group is not None else ():
                self._held.pop(name, None)
                moved.append((_key(name), pickle.dumps(group if name == group.name else group.name)))  # type: ignore[union-attr]
        self._stored.execute("BEGIN")
        self._stored.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?)", moved)
        self._stored.execute("COMMIT")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # JSON may hold half a character
