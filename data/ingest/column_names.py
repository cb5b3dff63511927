"""Names of columns as people and shops write them: any case, spaces, underscores, hyphens, accents, a feed's `g:`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

from mlx_phi3v.errors import UserError
from mlx_phi3v.text import in_form

from .paths_in_row import WRAPPERS, column_of

# What Google's feeds put before a name, and Amazon's flat files behind one.
_AROUND = re.compile(r"^g:|\[[^\]]*\]|#\d+\.(?:value|media_location)")


def folded(name: str) -> str:
    """A name as it is compared: letters and digits only, in lower case, without accents.

    >>> folded("Image Src"), folded("g:image_link"), folded("Título"), folded("item_name[language_tag=en_US]#1.value")
    ('imagesrc', 'imagelink', 'titulo', 'itemname')
    """
    plain = in_form("NFKD", _AROUND.sub("", name)).casefold()
    # Marks that belong to a letter (Devanagari, Thai) are dropped on both sides alike.
    return "".join(letter for letter in plain if letter.isalnum()) or name


def find_column(name: str, columns: Sequence[str]) -> str | None:
    """The column that `name` means, or the path into one: as it is written, else in any spelling; None if none or several.

    A path through what the reader took the row out of, as `fields.Price` of Airtable's, means what is behind it.

    >>> find_column("Image Src", ["image_src"]), find_column("fields.Price", ["Title", "Price"])
    ('image_src', 'Price')
    """
    if column_of(name, columns) is not None:
        return name
    wanted = folded(name)
    found = [column for column in columns if folded(column) == wanted]
    if len(found) == 1:
        return found[0]
    head, dot, rest = name.partition(".")
    nested = [column for column in columns if dot and folded(column) == folded(head)]
    if len(nested) == 1 and not found:
        return f"{nested[0]}.{rest}"
    return find_column(rest, columns) if rest and head in WRAPPERS and not nested else None


def first_column(names: Iterable[str], columns: Sequence[str]) -> str | None:
    """The column that the first of `names` means, where one means any."""
    spelled: dict[str, str] = {}
    for column in columns:
        spelled.setdefault(folded(column), column)
    for name in names:
        if name in columns:
            return name
        if (found := spelled.get(folded(name))) is not None:
            return found
    return None


def named_column(name: str, columns: Sequence[str], where: str) -> str:
    """As `find_column`. Raises UserError, with the nearest name, where no column fits."""
    found = find_column(name, columns)
    if found is None:
        raise unknown_column(name, columns, where)
    return found


def unknown_column(column: str, columns: Collection[str], where: str) -> UserError:
    """The error for a column that `where` does not have."""
    close = difflib.get_close_matches(column, columns, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(columns)}"
    return UserError(f"{where} has no column {column!r}{hint}")
