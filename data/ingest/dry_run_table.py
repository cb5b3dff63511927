"""A dry run on the terminal: the rows as a table, what was rejected, what is left over, the YAML that says the same."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_phi3v.text import printable

from .dry_run import DryRun, TriedRow

_LONGEST = 60  # characters of a cell
_MOST_LEFT_OVER = 40


def show_dry_run(found: DryRun, console: Console) -> None:
    """Print a dry run."""
    if found.export:
        console.print(_plain(f"read as {found.export}; --preset none turns that off"))
    console.print(_table(found))
    for line in _lines(found):
        console.print(_plain(line), soft_wrap=True)
    console.print(_plain("the same as YAML, for --config:"), style="bold")
    console.print(_plain(found.yaml, lines=True), soft_wrap=True)


def _table(found: DryRun) -> Table:
    table = Table(title=_plain(f"the first {len(found.rows)} rows of {found.source}; nothing was fetched or written"))
    table.add_column("row", justify="right")
    for name, columns in found.columns.items():
        table.add_column(_plain(f"{name}\n({', '.join(columns)})"), overflow="fold")
    if found.images:
        table.add_column(_plain(f"photo\n({', '.join(found.images[:3])})"), overflow="fold")
    table.add_column("tokens", justify="right")
    for row in found.rows:
        cells = [_cell(row.fields.get(name)) for name in found.columns]
        if row.rejected:
            cells = [Text(_short(f"{row.rejected}: {row.value}" if row.value else row.rejected), "red"), *cells[1:]]
        photos = [_plain(_short(", ".join(row.photos)))] if found.images else []
        table.add_row(str(row.row), *cells, *photos, "" if row.rejected else _tokens(row))
    return table


def _cell(value: str | float | None) -> Text:
    return Text("–", "dim") if value is None else _plain(_short(str(value)))


def _tokens(row: TriedRow) -> str:
    return f"{row.text_tokens} + photo" if row.photo_tokens is None else str(row.text_tokens + row.photo_tokens)


def _lines(found: DryRun) -> Iterator[str]:
    accepted = len(found.rows) - found.rejected.total()
    yield f"{accepted} of {len(found.rows)} rows would be kept"
    if found.rejected:
        yield "rejected: " + ", ".join(f"{reason} {count}" for reason, count in found.rejected.most_common())
    for name in found.columns:
        empty = sum(1 for row in found.rows if not row.rejected and row.fields.get(name) is None)
        if empty and accepted:
            yield f"{name} is missing in {empty} of {accepted} rows"
    how = "counted with the model's tokenizer" if found.counted else "about one for 3 characters; --model counts them"
    yield f"tokens: of the text {how}; of photos at 16 crops, where they are at hand"
    if found.left_over:
        listed = [f"{name} ({_short(example)})" if example else name for name, example in found.left_over.items()]
        more = f" and {len(listed) - _MOST_LEFT_OVER} more" if len(listed) > _MOST_LEFT_OVER else ""
        yield f"columns that nothing uses, carried along: {', '.join(listed[:_MOST_LEFT_OVER])}{more}"


def _plain(text: str, *, lines: bool = False) -> Text:
    return Text("\n".join(printable(part) for part in text.split("\n")) if lines or "\n" in text else printable(text))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
