"""Which row goes to which split, so that no product is in two splits.

Rows are one product where they have the same product code, the same photo or near-identical photos. Whole
products are assigned, category by category, in the order of a seeded hash. Keys and rows are in a SQLite file, so
memory does not grow with them but for 4 bytes a row while products are joined and 32 bytes a distinct photo.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .near_duplicates import Fingerprints, near_pairs

_BATCH = 10_000


def row_id(number: int) -> str:
    """The id of the row with this number."""
    return f"{number:07d}"


_INSERTED_AT_ONCE = 1000  # rows


class SplitRow(NamedTuple):
    """What splitting needs of a row: `photos` are (content hash, fingerprint) pairs, `given` is the source's own split."""

    row: int
    category: str | None
    code: str | None
    given: str | None
    photos: tuple[tuple[str, bytes], ...]
    group: str | None = None  # another name that rows of one product share


@dataclass(frozen=True)
class SplitReport:
    """How many rows were joined into products and why, and the products that are in several given splits."""

    products: int
    rows_held_together: int
    joined_by: Mapping[str, int]
    largest_product: int
    leaking_products: int
    leaks: tuple[Mapping[str, Any], ...] = field(default=())


class Splitter:
    """Assigns rows to splits. Use: `load` all rows, `join` products, `assign` splits, then read `splits`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        folder.mkdir(parents=True, exist_ok=True)
        self.fingerprints_path = folder / "prints.bin"
        database = folder / "splits.sqlite"
        for path in (database, self.fingerprints_path):
            path.unlink(missing_ok=True)
        self.database = sqlite3.connect(database, isolation_level=None)
        # Scratch: a killed run writes this file again, so nothing needs to reach the disk in order.
        self.database.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000; PRAGMA temp_store = FILE;
            CREATE TABLE rows (place INTEGER PRIMARY KEY, row INTEGER, category TEXT, given TEXT, rank INTEGER, root INTEGER);
            CREATE TABLE keys (key BLOB, place INTEGER);
            CREATE TABLE pictures (key BLOB PRIMARY KEY, number INTEGER, place INTEGER) WITHOUT ROWID;
            CREATE TABLE assigned (root INTEGER PRIMARY KEY, split TEXT);"""
        )
        self.rows = 0
        self.photos = 0
        self._new_rows: list[tuple[Any, ...]] = []
        self._new_keys: list[tuple[bytes, int]] = []

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def load(self, rows: Iterable[SplitRow]) -> None:
        """Take in all rows, in order."""
        self.database.execute("BEGIN")
        with open(self.fingerprints_path, "wb") as fingerprints:
            for row in rows:
                self._load_row(row, fingerprints)
                if len(self._new_rows) >= _INSERTED_AT_ONCE:
                    self._insert()
        self._insert()
        self.database.execute("COMMIT")

    def _insert(self) -> None:
        self.database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", self._new_rows)
        self.database.executemany("INSERT INTO keys VALUES (?, ?)", self._new_keys)
        self._new_rows.clear()
        self._new_keys.clear()

    def _load_row(self, row: SplitRow, fingerprints: Any) -> None:
        place = self.rows
        self.rows += 1
        # A product keeps its place in the seeded order when rows are added around it: its rank comes from what it is.
        identity = row.code or row.group or (row.photos[0][0] if row.photos else f"row {row.row}")
        rank = int.from_bytes(_digest(f"{self.seed} {identity}", 8), "big", signed=True)
        self._new_rows.append((place, row.row, row.category or "", row.given, rank, place))
        keys = [_digest(f"{kind} {name}", 12) for kind, name in (("code", row.code), ("group", row.group)) if name]
        for content, fingerprint in row.photos:
            key = _digest(f"picture {content}", 12)
            keys.append(b"p" + key)
            added = self.database.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)", (key, self.photos, place))
            if added.rowcount:
                fingerprints.write(fingerprint)
                self.photos += 1
        self._new_keys += [(key, place) for key in keys]

    def has_photo(self, content: str) -> bool:
        """Whether a loaded row has the photo with this content hash."""
        key = _digest(f"picture {content}", 12)
        return self.database.execute("SELECT 1 FROM pictures WHERE key = ?", (key,)).fetchone() is not None

    def join(self, *, near: bool = True) -> dict[str, int]:
        """Find products: rows that share a code or photo, or have near-identical ones -> links by cause."""
        links = {"code": 0, "same_picture": 0, "near_picture": 0}
        if self.database.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is None:
            return links
        forest = _Forest(self.rows)
        last: bytes | None = None
        first = 0
        for key, place in self.database.execute("SELECT key, place FROM keys ORDER BY key, place"):
            if key != last:
                last, first = key, place
            elif place != first and forest.union(first, place):
                links["same_picture" if len(key) == 13 else "code"] += 1
        if near and self.photos > 1:
            owners = np.zeros(self.photos, dtype=np.uint32)
            for number, place in self.database.execute("SELECT number, place FROM pictures"):
                owners[number] = place
            with open(self.fingerprints_path, "rb") as file:
                for one, two in near_pairs(Fingerprints(file)):
                    links["near_picture"] += forest.union(int(owners[one]), int(owners[two]))
        self._store_roots(forest)
        return links

    def _store_roots(self, forest: _Forest) -> None:
        self.database.execute("BEGIN")
        moved = ((root, place) for place in range(self.rows) if (root := forest.find(place)) != place)
        self.database.executemany("UPDATE rows SET root = ? WHERE place = ?", moved)
        self.database.execute("COMMIT")

    def assign(self, shares: Mapping[str, float]) -> None:
        """Give each product a split: the source's own, or by `shares` of the rows for every split but train.

        Within a category, products come in seeded order and fill each split up to its share; what rounding leaves
        over goes to the next category, so that many small categories still fill it. A category always keeps a
        product in train.
        """
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO assigned VALUES (?, ?)", self._deal(shares))
        self.database.execute("COMMIT")

    def _deal(self, shares: Mapping[str, float]) -> Iterator[tuple[int, str]]:
        free = "FROM rows JOIN rows AS top ON top.place = rows.root WHERE rows.given IS NULL"
        totals = {
            category: (rows, products)
            for category, rows, products in self.database.execute(
                f"SELECT top.category, COUNT(*), COUNT(DISTINCT rows.root) {free} GROUP BY top.category"
            )
        }
        products = self.database.execute(
            f"SELECT top.category, top.place, COUNT(*) {free} GROUP BY top.place ORDER BY top.category, top.rank, top.place"
        )
        carried = dict.fromkeys(shares, 0.0)
        for category, members in itertools.groupby(products, key=lambda product: product[0]):
            rows, left = totals[category]
            wanted = {name: share * rows + carried[name] for name, share in shares.items()}
            filled = dict.fromkeys(shares, 0)
            for _, root, size in members:
                # A small excess covers sums such as 0.1 + 0.2, which fall short of what they mean.
                fits = (name for name in shares if left > 1 and filled[name] + size <= wanted[name] + 1e-6)
                chosen = next(fits, "train")
                if chosen != "train":
                    filled[chosen] += size
                    left -= 1
                yield root, chosen
            carried = {name: wanted[name] - filled[name] for name in shares}

    def splits(self) -> Iterator[str]:
        """The split of every row, in the order of the rows."""
        query = "SELECT COALESCE(rows.given, assigned.split) FROM rows LEFT JOIN assigned USING (root) ORDER BY rows.place"
        for (split,) in self.database.execute(query):
            yield split

    def products(self) -> Iterator[str]:
        """The product of every row, in the order of the rows: the id of the product's first row."""
        query = "SELECT top.row FROM rows JOIN rows AS top ON top.place = rows.root ORDER BY rows.place"
        for (row,) in self.database.execute(query):
            yield row_id(row)

    def report(self, links: Mapping[str, int]) -> SplitReport:
        """Figures about products and leaks, after `assign`."""
        products = self.database.execute("SELECT COUNT(DISTINCT root) FROM rows").fetchone()[0]
        grouped = "SELECT root, COUNT(*) AS size, COUNT(DISTINCT given) AS givens FROM rows GROUP BY root"
        held, largest = self.database.execute(f"SELECT SUM(size), MAX(size) FROM ({grouped}) WHERE size > 1").fetchone()
        leaking = self.database.execute(f"SELECT COUNT(*) FROM ({grouped}) WHERE givens > 1").fetchone()[0]
        examples = self.database.execute(f"SELECT root FROM ({grouped}) WHERE givens > 1 ORDER BY root LIMIT 100").fetchall()
        leaks = tuple(
            {"rows": [{"row": row, "split": given} for row, given in self.database.execute(
                "SELECT row, given FROM rows WHERE root = ? ORDER BY place LIMIT 20", (root,))]}
            for (root,) in examples
        )  # fmt: skip
        return SplitReport(products, held or 0, dict(links), largest or min(self.rows, 1), leaking, leaks)


class _Forest:
    """Union-find over 0..N-1; the root of a tree is its smallest member, in any order of unions."""

    def __init__(self, count: int) -> None:
        self.parents: NDArray[np.unsignedinteger] = np.arange(count, dtype=np.uint32 if count < 2**32 else np.uint64)

    def find(self, item: int) -> int:
        parents = self.parents
        while (parent := int(parents[item])) != item:
            parents[item] = parents[parent]
            item = parent
        return item

    def union(self, one: int, two: int) -> bool:
        """Join two trees; False where they are one already."""
        one, two = self.find(one), self.find(two)
        if one == two:
            return False
        self.parents[max(one, two)] = min(one, two)
        return True


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()
