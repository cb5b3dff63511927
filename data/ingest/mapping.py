"""Which column of a source becomes which field of the task: read from YAML, flags or a preset, and checked."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_phi3v.cli import unknown_key
from mlx_phi3v.errors import UserError
from mlx_phi3v.flags import truth
from mlx_phi3v.ranges import short
from mlx_phi3v.task import QUESTION, Field, Task, chat_prompt, default_template

from .column_names import find_column, first_column, named_column
from .currency_columns import with_currency_column
from .field_spec import MappedField, column_text, fields_of, parse_field_flag
from .known_exports import PRESETS, load_preset
from .picture_pattern import is_pattern, pattern_columns, with_columns
from .picture_references import is_base_url
from .where import Condition, conditions

__all__ = ["PHOTOS", "PRESETS", "FieldMapping", "MappedField", "check_shape", "load_preset", "make_mapping", "parse_field_flag"]

Photos = Literal["rows", "all", "first"]
PHOTOS = ("rows", "all", "first")

# Taken where the user names no column and the source has exactly this one.
_USUAL_IMAGES = ("image", "images", "image_url", "imageurl", "local_image_path", "image_path", "photo", "picture", "file_name")
_USUAL_FIELDS = {"title": "text", "name": "text", "category": "category", "price": "number"}
_GROUP_KEYS = ("column", "key", "continued")
_TAG = re.compile(r"<\|image_\d+\|>")


@dataclass(frozen=True)
class FieldMapping:
    """How the columns of a source become a task's rows.

    images: columns, paths into them, or patterns such as `images/{id}.jpg`. photos: what becomes of several photos of a
    row; None: as many as the prompt shows. shown: how many photos the prompt shows where it is not a whole prompt.
    group: the column that rows of one product share; group_key: the column of the product's own row that it names;
    group_continued: a row without a group goes on with that of the row before.
    where: what a row must be to be taken. image_root: folder or URL that picture paths start from.
    """

    fields: tuple[MappedField, ...]
    images: tuple[str, ...]
    code: str | None
    split: str | None
    prompt: str | None
    template: str | None
    photos: Photos | None = None
    shown: int = 1
    separator: str | None = None
    group: str | None = None
    group_key: str | None = None
    group_continued: bool = False
    where: tuple[Condition, ...] = ()
    image_root: str | None = None

    def task(self) -> Task:
        """The task that training and scoring use. Raises UserError where template and fields disagree."""
        fields = [Field(item.name, item.kind, item.currency) for item in self.fields]
        return Task(tuple(fields), self._prompt(), self.template or default_template(fields))

    def photos_per_row(self) -> int:
        """How many photos the prompt shows."""
        return len(set(_TAG.findall(self._prompt())))

    def prompt_is_open(self) -> bool:
        """Whether the prompt leaves open how many photos it shows."""
        return self.prompt is None or "<|user|>" not in self.prompt

    def _prompt(self) -> str:
        return full_prompt(self.prompt, self.shown if self.images else 0)

    def image_columns(self) -> tuple[str, ...]:
        """The columns and paths that the photos come from."""
        return tuple(name for image in self.images for name in (pattern_columns(image) if is_pattern(image) else [image]))

    def image_folder(self) -> Path | None:
        """The folder that paths start from, where the user names one."""
        return None if self.image_root is None or is_base_url(self.image_root) else Path(self.image_root).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, stored in `catalogue.json` and compared on resume."""
        return dataclasses.asdict(self)


def full_prompt(question: str | None, photos: int) -> str:
    """A question as the model's prompt with so many photos; text that is a whole prompt already stays as it is."""
    question = question or QUESTION
    return question if "<|user|>" in question else chat_prompt(" ".join(question.split()), photos)


def make_mapping(settings: Mapping[str, Any], columns: Sequence[str], where: str) -> FieldMapping:
    """Build the mapping from the keys fields, image, code, split, group, photos, where, prompt, template, currency and
    category_step.

    `columns` are the source's; what is not named falls back on usual names. `where` names the source in errors.
    Raises UserError for an unknown key, an unknown column or a field that makes no sense.
    """
    fields = tuple(_in_source(item, columns, where) for item in fields_of(settings, where))
    fields = _with_step(fields or _usual_fields(settings.get("currency"), columns, where), settings)
    images, separator = _images(settings.get("image"), columns, where)
    group, group_key, continued = _group(settings.get("group"), where)

    def named(column: str | None) -> str | None:
        return None if column is None else named_column(column, columns, where)

    mapping = FieldMapping(
        fields=tuple(with_currency_column(item, columns, where) for item in fields),
        images=images,
        code=named(_one_column("code", settings.get("code"), where)),
        split=named(_one_column("split", settings.get("split"), where)),
        prompt=settings.get("prompt"),
        template=settings.get("template"),
        photos=settings.get("photos"),
        shown=1 if settings.get("photos") in ("rows", "first") else len(images),
        separator=separator,
        group=named(group),
        group_key=named(group_key),
        group_continued=continued,
        where=tuple(
            dataclasses.replace(item, column=named_column(item.column, columns, where))
            for item in conditions(settings.get("where"), where)
        ),
        image_root=settings.get("image_root"),
    )
    mapping.task()
    if mapping.photos_per_row() and not images:
        raise UserError(f"the prompt shows a photo but no column of {where} is named for it; give --image COLUMN")
    if mapping.photos == "rows" and mapping.photos_per_row() > 1:
        raise UserError(f"--photos rows makes a row of each photo, but the prompt shows {mapping.photos_per_row()}")
    return mapping


def check_shape(settings: Mapping[str, Any], where: str) -> None:
    """Raise UserError, naming `where` and the key, for mapping keys that no source can fit: wrong types, names, template."""
    mapped = fields_of(settings, where)
    for key in ("image", "code", "split"):
        _column_names(key, settings.get(key), where)
    _group(settings.get("group"), where)
    conditions(settings.get("where"), where)
    template = settings.get("template")
    if template is None:
        return
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        Task(tuple(Field(name, "text") for name in ([item.name for item in mapped] or names)), "", template)
    except (UserError, ValueError) as error:
        raise UserError(f"template in {where} is {short(template)}: {error}") from None


def _in_source(field: MappedField, columns: Sequence[str], where: str) -> MappedField:
    """The field with the source's own names; `a|b` names two columns where none is named so."""
    names: list[str] = []
    for given in field.columns:
        whole = find_column(given, columns) is not None or "|" not in given
        names += [named_column(name.strip(), columns, where) for name in ([given] if whole else given.split("|"))]
    return dataclasses.replace(field, column=names[0], further=tuple(dict.fromkeys(names[1:])))


def _with_step(fields: tuple[MappedField, ...], settings: Mapping[str, Any]) -> tuple[MappedField, ...]:
    """The fields, categories with the step of their path that is asked of all that name none."""
    step, separator = settings.get("category_step"), settings.get("category_separator")
    if step is None:
        return fields
    return tuple(
        dataclasses.replace(item, step=step, separator=separator) if item.kind == "category" and item.step is None else item
        for item in fields
    )


def _usual_fields(currency: str | None, columns: Sequence[str], where: str) -> tuple[MappedField, ...]:
    settings = {
        "fields": {
            name: {"column": column, "kind": kind}
            for name, kind in _USUAL_FIELDS.items()
            if (column := first_column([name], columns)) is not None
        },
        "currency": currency,
    }
    found = fields_of(settings, where)
    if not found:
        raise UserError(
            f"{where} has the columns {', '.join(columns)}; say which to learn, for instance --field title={columns[0]}:text"
        )
    return found


def _images(value: Any, columns: Sequence[str], where: str) -> tuple[tuple[str, ...], str | None]:
    """The image columns or patterns with the source's names, and the separator of several in a cell."""
    if value is False:  # said: no photos
        return (), None
    names = _column_names("image", value, where)
    separator = value.get("separator") if isinstance(value, Mapping) else None
    if not names:
        found = first_column(_USUAL_IMAGES, columns)
        return ((found,) if found else ()), None
    return tuple(
        with_columns(name, columns, where) if is_pattern(name) and name not in columns else named_column(name, columns, where)
        for name in names
    ), separator


def _column_names(key: str, value: Any, where: str) -> tuple[str, ...]:
    """The columns of `image: {column: a}`, `image: {columns: [a, b]}`, `image: a` or nothing."""
    said = f"{key} in {where}"
    if value is False and key == "image":
        return ()
    if isinstance(value, Mapping):
        known = ("column", "columns", "separator") if key == "image" else ("column", "columns")
        for name in value:
            if name not in known:
                raise unknown_key(str(name), known, said)
        separator = value.get("separator")
        if separator is not None and (not isinstance(separator, str) or not separator):
            raise UserError(f'{said} has separator {short(separator)}; write the text between pictures, such as ","')
        value = value.get("column", value.get("columns"))
    if value is None:
        return ()
    return tuple(column_text(item, said) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _one_column(key: str, value: Any, where: str) -> str | None:
    names = _column_names(key, value, where)
    if len(names) > 1:
        raise UserError(f"{key} in {where} names the columns {', '.join(names)}; give one")
    return names[0] if names else None


def _group(value: Any, where: str) -> tuple[str | None, str | None, bool]:
    """The columns of `group: Handle` or `group: {column: Parent, key: SKU}`, and whether `continued: true` is said."""
    if not isinstance(value, Mapping):
        return _one_column("group", value, where), None, False
    for name in value:
        if name not in _GROUP_KEYS:
            raise unknown_key(str(name), _GROUP_KEYS, f"group in {where}")
    continued = truth(value.get("continued", False))
    if continued is None:
        raise UserError(f"group in {where} has continued {short(value['continued'])}; write continued: true or leave it out")
    return _one_column("group", value.get("column"), where), _one_column("group", value.get("key"), where), continued
