"""Which column of a source becomes which field of the task: read from YAML, flags or a preset, and checked."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from mlx_phi3v.cli import read_yaml, unknown_key
from mlx_phi3v.errors import UserError
from mlx_phi3v.flags import truth
from mlx_phi3v.ranges import short
from mlx_phi3v.task import QUESTION, Field, FieldKind, Task, chat_prompt, default_template

from .prices import DecimalMark

PRESETS = ("burberry",)
KINDS = ("text", "category", "number")

# Taken where the user names no column and the source has exactly this one.
_USUAL_FIELDS: dict[str, FieldKind] = {"title": "text", "name": "text", "category": "category", "price": "number"}
_USUAL_IMAGES = ("image", "images", "image_url", "imageurl", "local_image_path", "image_path", "photo", "picture", "file_name")
_USUAL_CURRENCIES = (
    "currency",
    "currencycode",
    "pricecurrency",
    "currencyiso",
    "waehrung",
    "währung",
    "devise",
    "moneda",
    "valuta",
)
_TAG = re.compile(r"<\|image_\d+\|>")


@dataclass(frozen=True)
class MappedField:
    """One field of the task and the column it is read from. Of a number: its decimal mark and the column of its currency."""

    name: str
    column: str
    kind: FieldKind = "text"
    currency: str | None = None
    decimal: DecimalMark | None = None
    required: bool = False
    currency_column: str | None = None


@dataclass(frozen=True)
class FieldMapping:
    """How the columns of a source become a task's rows."""

    fields: tuple[MappedField, ...]
    images: tuple[str, ...]
    code: str | None
    split: str | None
    prompt: str | None
    template: str | None

    def task(self) -> Task:
        """The task that training and scoring use. Raises UserError where template and fields disagree."""
        fields = [Field(item.name, item.kind, item.currency) for item in self.fields]
        prompt = full_prompt(self.prompt, len(self.images))
        return Task(tuple(fields), prompt, self.template or default_template(fields))

    def photos_per_row(self) -> int:
        """How many photos the prompt shows."""
        return len(set(_TAG.findall(full_prompt(self.prompt, len(self.images)))))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, stored in `catalogue.json` and compared on resume."""
        return asdict(self)


def full_prompt(question: str | None, photos: int) -> str:
    """A question as the model's prompt with so many photos; text that is a whole prompt already stays as it is."""
    question = question or QUESTION
    return question if "<|user|>" in question else chat_prompt(" ".join(question.split()), photos)


def load_preset(name: str) -> dict[str, Any]:
    """The keys of a preset, in the form of a user's own YAML."""
    return read_yaml(Path(__file__).parent / "presets" / f"{name}.yaml")


def make_mapping(settings: Mapping[str, Any], columns: Sequence[str], where: str) -> FieldMapping:
    """Build the mapping from the keys fields, image, code, split, prompt, template, currency.

    `columns` are the source's; what is not named falls back on usual names. `where` names the source in errors.
    Raises UserError for an unknown key, an unknown column or a field that makes no sense.
    """
    fields = _fields(settings, where) or _usual_fields(settings.get("currency"), columns, where)
    images = _column_names("image", settings.get("image"), where)
    if not images:
        images = tuple(name for name in _USUAL_IMAGES if name in columns)[:1]
    mapping = FieldMapping(
        fields,
        images,
        _one_column("code", settings.get("code"), where),
        _one_column("split", settings.get("split"), where),
        settings.get("prompt"),
        settings.get("template"),
    )
    for column in (*(f.column for f in fields), *images, *filter(None, (mapping.code, mapping.split))):
        if column not in columns:
            raise _unknown_column(column, columns, where)
    mapping = with_currency_columns(mapping, columns, where)
    mapping.task()
    if mapping.photos_per_row() and not images:
        raise UserError(f"the prompt shows a photo but no column of {where} is named for it; give --image COLUMN")
    return mapping


def with_currency_columns(mapping: FieldMapping, columns: Sequence[str], where: str) -> FieldMapping:
    """The mapping with the usual column of currencies for number fields that name none: `currency`, or one beside the price.

    Raises UserError for a column that the source has not.
    """
    folded = {name.casefold().replace("_", "").replace(" ", ""): name for name in reversed(columns)}
    found = []
    for field in mapping.fields:
        if field.currency_column and field.currency_column not in columns:
            raise _unknown_column(field.currency_column, columns, where)
        if field.kind == "number" and not field.currency_column:
            beside, _, _ = field.column.rpartition(".")
            names = [f"{beside}.{name}" for name in _USUAL_CURRENCIES] if beside else []
            names += [f"{field.column}{name}".replace("_", "").casefold() for name in _USUAL_CURRENCIES[:2]]
            usual = next((folded[name] for name in (*names, *_USUAL_CURRENCIES) if name in folded), None)
            field = replace(field, currency_column=usual if usual != field.column else None)
        found.append(field)
    return replace(mapping, fields=tuple(found))


def check_shape(settings: Mapping[str, Any], where: str) -> None:
    """Raise UserError, naming `where` and the key, for mapping keys that no source can fit: wrong types, names, template."""
    mapped = _fields(settings, where)
    for key in ("image", "code", "split"):
        _column_names(key, settings.get(key), where)
    template = settings.get("template")
    if template is None:
        return
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        Task(tuple(Field(name, "text") for name in ([item.name for item in mapped] or names)), "", template)
    except (UserError, ValueError) as error:
        raise UserError(f"template in {where} is {short(template)}: {error}") from None


def parse_field_flag(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME=COLUMN:KIND:CURRENCY` of the flag `--field` -> (name, its YAML form). Kind and currency may be left out.

    Raises UserError if the text is not of this form.
    """
    name, mark, rest = text.partition("=")
    pieces = rest.split(":")
    if not mark or not name or not pieces[0] or len(pieces) > 3:
        raise UserError(
            f"--field {text!r} is not of the right form; write NAME=COLUMN:KIND, such as price=full_price:number:USD"
        )
    return name, dict(zip(("column", "kind", "currency"), pieces))


def _fields(settings: Mapping[str, Any], where: str) -> tuple[MappedField, ...]:
    fields = settings.get("fields") or {}
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: fields is {short(fields)}; write one line per field, such as title: {{column: name}}")
    return tuple(_field(name, spec, settings.get("currency"), where) for name, spec in fields.items())


_KEYS = ("column", "kind", "currency", "currency_column", "decimal", "required")
_RESERVED = ("id", "images")


def _field(name: Any, spec: Any, currency: str | None, where: str) -> MappedField:
    said = f"{where}: field {short(name)}"
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or name in _RESERVED:
        raise UserError(
            f"{where}: a field cannot be named {short(name)}; begin with a letter, go on with letters, digits and _, "
            f"and take neither {' nor '.join(_RESERVED)}"
        )
    if not isinstance(spec, Mapping):
        spec = {} if spec is None else {"column": spec}
    for key in spec:
        if key not in _KEYS:
            raise UserError(f"{where}: {unknown_key(str(key), _KEYS, f'field {name!r}')}")
    kind = spec.get("kind", "number" if spec.get("currency") else "text")
    if kind not in KINDS:
        raise UserError(f"{said} is of kind {short(kind)}; choose {', '.join(KINDS)}")
    decimal = spec.get("decimal")
    if decimal not in (None, ".", ","):
        raise UserError(f'{said} has decimal {short(decimal)}; write decimal: "." or decimal: ","')
    number = kind == "number"
    if not number and (spec.get("currency") or spec.get("currency_column") or decimal):
        raise UserError(f"{said} has a currency or decimal mark but is of kind {kind}; only a number can have one")
    required = truth(spec.get("required", False))
    if required is None:
        raise UserError(f"{said} has required {short(spec['required'])}; write required: true or required: false")
    return MappedField(
        name,
        _text(spec.get("column", name), f"{said}: column"),
        cast(FieldKind, kind),
        (_currency(spec.get("currency"), said) or currency) if number else None,
        cast("DecimalMark | None", decimal),
        required,
        _text(spec["currency_column"], f"{said}: currency_column") if spec.get("currency_column") else None,
    )


def _text(value: Any, said: str) -> str:
    """A column's name; one of digits as it was written. Raises UserError for anything but a word."""
    text = getattr(value, "text", value)
    if isinstance(text, str) and text:
        return text
    raise UserError(f"{said} is {short(value)}; it must be a column's name")


def _currency(value: Any, said: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise UserError(f"{said} has currency {short(value)}; write its ISO code, such as USD")


def _usual_fields(currency: str | None, columns: Sequence[str], where: str) -> tuple[MappedField, ...]:
    found = tuple(
        MappedField(name, name, kind, currency if kind == "number" else None)
        for name, kind in _USUAL_FIELDS.items()
        if name in columns
    )
    if not found:
        raise UserError(
            f"{where} has the columns {', '.join(columns)}; say which to learn, for instance --field title={columns[0]}:text"
        )
    return found


def _column_names(key: str, value: Any, where: str) -> tuple[str, ...]:
    """The columns of `image: {column: a}`, `image: {columns: [a, b]}`, `image: a` or nothing."""
    said = f"{key} in {where}"
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("column", "columns"):
                raise unknown_key(str(name), ("column", "columns"), said)
        value = value.get("column", value.get("columns"))
    if value is None:
        return ()
    return tuple(_text(item, said) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _one_column(key: str, value: Any, where: str) -> str | None:
    names = _column_names(key, value, where)
    if len(names) > 1:
        raise UserError(f"{key} in {where} names the columns {', '.join(names)}; give one")
    return names[0] if names else None


def _unknown_column(column: str, columns: Sequence[str], where: str) -> UserError:
    close: Literal[""] | list[str] = difflib.get_close_matches(column, columns, n=1) or ""
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(columns)}"
    return UserError(f"{where} has no column {column!r}{hint}")
