"""The settings of an ingest."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mlx_phi3v.cli import check_ranges, option
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_PIXELS, MAX_PROCESSES, MAX_ROWS, MAX_SEED, MAX_TOKENS, MIN_SIDE, short

from .hub_options import HubOptions
from .mapping import PHOTOS, PRESETS, check_shape, parse_field_flag
from .reading.options import Quoting, Reading

_SHAPE = ("photos", "group", "where", "image_root", "category_step", "category_separator")


@dataclass(frozen=True)
class IngestConfig:
    """One run of `data.ingest`: the source, what to learn from it, how to fetch and how to split."""

    source: str = option(help="file, folder or hub dataset id", positional=True, path=True)
    output: Path = option(
        Path(), help="folder of the new catalogue (required but for --dry-run)", flags=("-o",), writes="new", metavar="PATH"
    )
    preset: str | None = option(
        None,
        help=f"columns of a known export: {', '.join(PRESETS)}, or a YAML file; found by the columns if not given",
        metavar="NAME|FILE",
    )
    field: tuple[str, ...] = option(
        (),
        help="fields to learn, each NAME=COLUMN:KIND:CURRENCY; kinds: text, category, number; A|B reads B where A is empty",
    )
    image: Any = option(
        None,
        help="columns with photos (bytes, paths or URLs), or a pattern such as images/{id}.jpg",
        metavar="COLUMN",
        many=True,
    )
    images: bool = option(True, help="--no-images learns from text alone, where the source has no photos")
    image_root: str | None = option(None, help="folder or URL that photo paths start from", path=True, metavar="FOLDER|URL")
    photos: str | None = option(
        None, help="several photos of a row: a row each, all in one row by the prompt's tags, or the first", choices=PHOTOS
    )
    group: Any = option(
        None, help="column that the rows of one product share; blanks are filled from its first row", metavar="COLUMN"
    )
    category_step: int | None = option(
        None, help="of a category's path only this step: 1 is the first, -1 the last", at_least=-1000, at_most=1000, metavar="N"
    )
    category_separator: str | None = option(
        None, help="text between the steps of a category's path; found if not given", metavar="TEXT"
    )
    where: Any = option(
        None, help="only rows for which this holds, such as 'Published == 1' (also !=, <, <=, >, >=)", many=True
    )
    join: Path | None = option(None, help="a second table, whose columns are put beside the rows by --on", metavar="FILE")
    on: str | None = option(None, help="the key column of both tables of --join, or SOURCE=TABLE", metavar="KEY")
    dry_run: int | None = option(
        None,
        help="show what becomes of the first N rows (20), fetch and write nothing",
        metavar="N",
        at_least=1,
        at_most=10**6,
        implied=20,
    )
    model: Path | None = option(
        None, help="folder of a model, whose tokenizer counts rows that are too long, and tokens of --dry-run"
    )
    max_length: int | None = option(
        None, help="count rows of more tokens than this; by default the model's limit", at_least=1, at_most=MAX_TOKENS
    )
    limit: int | None = option(None, help="read only so many rows", at_least=1, at_most=10**12)
    code: Any = option(None, help="column with the product code; equal codes stay in one split")
    split: Any = option(None, help="column with the split, where the source has its own")
    prompt: str | None = option(None, help="the question about each photo")
    template: str | None = option(None, help="the answer, such as 'Title: {title}, Price: {price}'")
    currency: str | None = option(None, help="ISO code of the prices, for fields that name none")
    currency_rates: Path | None = option(
        None, help="YAML or CSV file, code -> worth of one unit in --currency; prices of other currencies are converted"
    )
    strip_html: bool = option(True, help="take tags and entities of HTML out of text")
    empty_words: bool = option(True, help="read None, nan, N/A, null, - and their like as missing, in every column")
    encoding: str | None = option(None, help="encoding of a CSV file; found in its bytes if not given")
    delimiter: str | None = option(None, help="column delimiter of a CSV file; found in its rows if not given")
    quoting: str | None = option(
        None,
        help="quotes of a CSV file: doubled (rfc), escaped by a backslash, or text (none); found in all its rows if not given",
        choices=("rfc", "backslash", "none"),
    )
    header_line: int | None = option(
        None, help="line of a CSV file that names the columns; found if not given", at_least=1, at_most=MAX_ROWS
    )
    sheet: str | None = option(None, help="sheet of a workbook; the one with most cells if not given")
    hub_config: str | None = option(None, help="configuration of a hub dataset, where it has several")
    revision: str | None = option(None, help="branch, tag or commit of a hub dataset")
    hub_split: str | None = option(None, help="splits of a hub dataset to read, such as train or train[:10%%]")
    streaming: bool = option(False, help="read a hub dataset as it comes, without storing it")
    validation: float = option(0.1, help="share of the rows for validation", at_least=0, below=1)
    test: float = option(0.0, help="share of the rows for the test split", at_least=0, below=1)
    seed: int = option(0, help="the same seed splits the same way", at_least=0, at_most=MAX_SEED)
    near_duplicates: bool = option(True, help="keep near-identical photos in one split")
    keep_shared_photos: bool = option(False, help="keep rows whose photo many products share, such as 'no image available'")
    csv: bool = option(False, help="also write products.csv with local_image_path, as the published recipe reads it")
    processes: int = option(os.cpu_count() or 1, help="processes that check rows and photos", at_least=1, at_most=MAX_PROCESSES)
    max_bytes: int = option(50_000_000, help="largest photo file, in bytes", at_least=1, at_most=10**12)
    max_pixels: int = option(MAX_PIXELS, help="largest photo, in pixels", at_least=1, at_most=10**10)
    min_side: int = option(MIN_SIDE, help="shortest side of a photo, in pixels", at_least=1, at_most=1_000_000)
    downloads: Path | None = option(None, help="folder that stores downloaded photos for later runs", writes="folder")
    connections: int = option(32, help="downloads at a time", at_least=1, at_most=1000)
    per_host: int = option(8, help="downloads at a time from one host", at_least=1, at_most=1000)
    timeout: float = option(20.0, help="seconds without a byte before a download counts as stalled", above=0, at_most=86_400)
    retries: int = option(4, help="further attempts after a failure that may pass", at_least=0, at_most=100)
    allow_private: bool = option(False, help="also fetch from addresses inside your own network")
    allow_hosts: tuple[str, ...] = option((), help="fetch from these HOST:PORT, wherever they are")
    json: bool = option(False, help="print progress and the summary as JSON lines")
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    def check_values(self, where: str) -> None:
        """Raise UserError, naming `where` and the key, for mapping keys of the wrong shape."""
        if self.output == Path() and self.dry_run is None:
            raise UserError("--output is required (as a flag or as the key 'output' of --config)")
        names = [parse_field_flag(text)[0] for text in self.field]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"--field gives {short(twice)} twice; give each field once")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise UserError(f"delimiter in {where} is {short(self.delimiter)}; it must be one character, such as ; or a tab")
        if self.category_step == 0:
            raise UserError(f"category_step in {where} is 0; write 1 for the first step of the path, or -1 for the last")
        if self.category_separator is not None and not (self.category_step and self.category_separator):
            raise UserError("--category-separator needs a text and --category-step, which says what to take")
        if not self.images and self.image is not None:
            raise UserError("--no-images and --image contradict each other; give one of them")
        _check_join(self.join, self.on)
        check_shape(self.mapping_keys(), where)

    def reading(self) -> Reading:
        """How table files are read."""
        quick = self.dry_run is not None
        return Reading(self.encoding, self.delimiter, cast("Quoting | None", self.quoting), self.header_line, self.sheet, quick)

    def hub(self) -> HubOptions:
        """What is asked of the hub beside the data set's name."""
        return HubOptions(self.hub_config, self.revision, self.hub_split, self.streaming)

    def mapping_keys(self) -> dict[str, Any]:
        """What the user says of the use of columns; `known_exports.with_preset` adds a preset's keys."""
        own: dict[str, Any] = {
            key: getattr(self, key) for key in ("fields", "image", "code", "split", "prompt", "template", "currency", *_SHAPE)
        }
        if self.field:
            own["fields"] = {**self.fields, **dict(parse_field_flag(text) for text in self.field)}
        if not self.images:
            own["image"] = False
        return {key: value for key, value in own.items() if value is not None and value != {}}


def _check_join(join: Path | None, on: str | None) -> None:
    """Raise UserError where one of --join and --on is given without the other."""
    if (join is None) != (on is None):
        missing, given = ("--on", "--join") if on is None else ("--join", "--on")
        raise UserError(f"{given} needs {missing} too: the file to join and the column that both have, such as --on sku")


def check_settings(settings: IngestConfig) -> None:
    """Raise UserError for a value out of range."""
    check_ranges(settings)
    if settings.max_length is not None and settings.model is None:
        raise UserError("--max-length needs --model, the folder of the model whose tokenizer counts")
    if settings.currency_rates and not settings.currency:
        raise UserError("--currency-rates needs --currency, the code that the rates turn prices into, such as EUR")
    if settings.validation + settings.test >= 1:
        raise UserError("--validation and --test leave nothing to train on; give shares that add up to less than 1")
    for host in settings.allow_hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isascii() or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
            raise UserError(
                f"--allow-hosts {short(host)} has no port from 1 to 65535; write HOST:PORT, such as photos.intranet:443"
            )
