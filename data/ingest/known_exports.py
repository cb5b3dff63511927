"""Exports of shops and tools that are known by their columns, each a YAML file in `presets/` that a user may copy.

Beside the keys of a mapping a preset has `export` (what it is called in a message) and `found_by`: sets of columns, of
which a table has all of one. A list in place of a column holds spellings: the first that the table has is taken. What
the table lacks is left out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlx_phi3v.cli import read_yaml
from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note
from mlx_phi3v.ranges import short
from mlx_phi3v.text import listed as listed_names

from .column_names import find_column, first_column, folded
from .qualified_names import is_untaxed, other_levels, priced_columns, qualified_columns

_FOLDER = Path(__file__).parent / "presets"
# In the order they are looked for: what names few columns comes last.
KNOWN = (
    *(
        "shopify",
        "shopify_json",
        "woocommerce",
        "magento",
        "prestashop",
        "etsy",
        "amazon",
        "google_merchant",
        "yml",
        "wix",
        "bigcommerce",
        "squarespace",
        "ecwid",
    ),
    *("label_studio", "coco", "llava", "imagefolder"),
)
PRESETS = ("burberry", *KNOWN, "generic", "none")
_OWN_KEYS = ("export", "found_by")
_LAST = ("caption", "text", "description")  # a title only where nothing else is


@functools.lru_cache
def _shipped(name: str) -> dict[str, Any]:
    return read_yaml(_FOLDER / f"{name}.yaml")


def load_preset(name: str) -> dict[str, Any]:
    """The keys of a preset, by its name or file; none of "none". Raises UserError where there is no such preset."""
    if name == "none":
        return {}
    if name in PRESETS:
        return dict(_shipped(name))
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        return read_yaml(Path(name), f"--preset {name}")
    raise UserError(f"--preset {short(name)} is none of {', '.join(PRESETS)}, nor a YAML file")


def detect(columns: Sequence[str], least: int = 1) -> str | None:
    """The known export that a table with these columns is, by at least so many of its names; None where it is none."""
    have = {folded(column) for column in columns}
    for name in KNOWN:
        if any(len(wanted) >= least and wanted <= have for wanted in _found_by(name)):
            return name
    return None


@functools.lru_cache
def _found_by(name: str) -> list[frozenset[str]]:
    # Of all presets only this is needed for every table: libyaml, where it is there, reads it ten times as fast.
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    preset = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [frozenset(folded(str(column)) for column in wanted) for wanted in preset["found_by"]]


def fitted(preset: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The mapping's keys of a preset with the names that this table has.

    A preset without `found_by` is for one set of columns: its keys are as they are written.
    """
    keys = {key: value for key, value in preset.items() if key not in _OWN_KEYS}
    if "found_by" not in preset and "export" not in preset:
        return keys
    fields = {name: spec for name, given in (keys.get("fields") or {}).items() if (spec := _spec(given, columns))}
    fit = keys | {"fields": fields}
    for key in ("image", "code", "split"):
        if key in keys and not (fit.update({key: _spec(keys[key], columns)}) or fit[key]):
            del fit[key]
    if "group" in keys:
        fit |= {"group": _group(keys["group"], columns)}
    return {key: value for key, value in fit.items() if value}


def _spec(given: Any, columns: Sequence[str]) -> dict[str, Any] | None:
    """The columns of one key as `{column: ...}` or `{columns: [...]}`, with what else it says; None where there is none."""
    spec = dict(given) if isinstance(given, Mapping) else {"columns": given}
    listed = spec.pop("columns", spec.pop("column", None))
    choices = listed if isinstance(listed, (list, tuple)) else [listed]
    if spec.get("kind") == "number":
        return _prices(choices, spec, columns)
    names = list(dict.fromkeys(name for item in choices if (name := _column(item, columns))))
    if (not names or folded(names[0]) in _LAST) and (
        worded := qualified_columns(_spellings(choices), columns, category=spec.get("kind") == "category")
    ):
        names = [_first_of(worded)]
    if not names:
        return None
    if spec.get("kind") == "category" and (others := other_levels(names[0], columns)):
        note(f"the category is read from {names[0]}, not from {listed_names(others, 3)}; --field says otherwise")
    return {"column": names[0], **spec} if len(names) == 1 else {"columns": names, **spec}


def _prices(choices: Sequence[Any], spec: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any] | None:
    """The columns of a number's tiers, such as sale and regular price: of each its own name, else with tax or currency beside.

    Columns in another currency than the first, or without tax behind one that is not, are no tier of the same price.
    """
    found: dict[str, str | None] = {}
    for item in choices:
        own = _column(item, columns)
        choice = [(own, None)] if own else priced_columns(_spellings([item]), columns)
        if choice:
            found.setdefault(_first_of([name for name, _ in choice]), choice[0][1])
    if not found:
        return None
    first, code = next(iter(found.items()))
    names = [name for name in found if found[name] in (None, code) and is_untaxed(name) == is_untaxed(first)]
    if others := [name for name in found if is_untaxed(name) != is_untaxed(first)]:
        note(f"price is read from {first}, not from {listed_names(others, 3)}, by what they say of tax; --field says otherwise")
    elif is_untaxed(first):
        note(f"price is read from {first}, which is without tax")
    currency = {"currency": code} if code else {}
    return {"column": names[0], **currency, **spec} if len(names) == 1 else {"columns": names, **currency, **spec}


def _column(spelled: Any, columns: Sequence[str]) -> str | None:
    if isinstance(spelled, (list, tuple)):
        return first_column([str(name) for name in spelled], columns)
    return find_column(str(spelled), columns) if spelled is not None else None


def _spellings(choices: Sequence[Any]) -> list[str]:
    """All names of a list; of a title also `name`, and what may be one last."""
    names = [str(name) for item in choices for name in (item if isinstance(item, (list, tuple)) else [item])]
    last = [name for name in names if name in _LAST]
    return [*(name for name in names if name not in last), *(["name"] if "title" in names else []), *last]


def _first_of(names: Sequence[str]) -> str:
    if len(names) > 1:
        note(f"of {', '.join(names[:4])} the column {names[0]} is read; --field says otherwise")
    return names[0]


def _group(given: Any, columns: Sequence[str]) -> dict[str, Any] | None:
    spec = given if isinstance(given, Mapping) else {"column": given}
    column = _column(spec.get("column"), columns)
    if column is None:
        return None
    key = _column(spec.get("key"), columns)
    return {"column": column} | ({"key": key} if key else {}) | ({"continued": True} if spec.get("continued") else {})


KINDS_OF_USUAL = {"title": "text", "name": "text", "category": "category", "price": "number"}


def with_preset(
    own: Mapping[str, Any], columns: Sequence[str], preset: str | None, table: object = None
) -> tuple[dict[str, Any], str | None]:
    """The user's own keys over those of a preset, or of the known export that the columns show -> (keys, export's name).

    A `table` of annotations knows its preset and fields. What neither names is found by usual names. Of a preset that was
    only found, just photos and products count beside a user's own fields. Raises UserError for an unknown preset.
    """
    known = getattr(table, "preset", None) or detect(columns)
    found = preset or known
    given = load_preset(found or "generic")
    keys = fitted(given, columns)
    if table is not None and found == getattr(table, "preset", ""):
        keys = _of_annotations(keys, table)
    if not own.get("fields") and not keys.get("fields") and preset != "none":
        keys["fields"] = fitted(load_preset("generic"), columns).get("fields", {})
    if not own.get("fields") and found in (None, "generic", "imagefolder"):
        keys["fields"] = _usual_fields(columns, keys.get("fields") or {})
    if own.get("fields") and preset is None and known:
        own = dict(own) | {"fields": _with_further_prices(own["fields"], keys.get("fields") or {}, columns)}
    if own.get("fields") and preset is None:
        keys = {key: value for key, value in keys.items() if key in ("image", "image_root", "photos", "group")}
    if own.get("image") and "photos" not in own:
        keys.pop("photos", None)  # the user's columns: as many photos as there are of them
    export = str(given["export"]) if preset is None and known and "export" in given else None
    return keys | dict(own), export


def _with_further_prices(own: Mapping[str, Any], known: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The user's fields; a price of one column goes on to those that the known export reads where that one is blank."""
    fields = dict(own)
    tiers = [spec["columns"] for spec in known.values() if spec.get("kind") == "number" and "columns" in spec]
    for name, spec in own.items():
        column = spec.get("column") if isinstance(spec, Mapping) and spec.get("kind", "") == "number" else None
        found = find_column(str(column), columns) if column else None
        further: list[str] = next((listed[listed.index(found) + 1 :] for listed in tiers if found in listed), [])
        if further:
            note(f"{name} is read from {', '.join(further)} where {found} is blank; --preset none turns that off")
            fields[name] = {key: value for key, value in spec.items() if key != "column"} | {"columns": [found, *further]}
    return fields


def _of_annotations(keys: dict[str, Any], table: object) -> dict[str, Any]:
    """The keys with what a table of annotations says of its fields and photos."""
    kinds: Mapping[str, str] = getattr(table, "field_kinds", {})
    image = getattr(table, "image_column", None)
    fields = {_identifier(name): {"column": name, "kind": kind} for name, kind in kinds.items()}
    return keys | ({"fields": fields} if fields else {}) | ({"image": {"column": image}} if image else {})


def _identifier(name: str) -> str:
    """A control's name as a field's: letters, digits and _.

    >>> _identifier("Kleid: Farbe"), _identifier("id")
    ('Kleid_Farbe', 'the_id')
    """
    word = re.sub(r"\W+", "_", name).strip("_")
    return word if word.isidentifier() and word not in ("id", "images") else f"the_{word}"


def _usual_fields(columns: Sequence[str], generic: Mapping[str, Any]) -> dict[str, Any]:
    """Columns named title, name, category and price, and by `generic` what these lack."""
    plain = {name: column for name in KINDS_OF_USUAL if (column := first_column([name], columns))}
    fields = {name: {"column": column, "kind": KINDS_OF_USUAL[name]} for name, column in plain.items()}
    if "name" in fields:
        generic = {name: spec for name, spec in generic.items() if name != "title"}
    together = {**generic, **fields}
    return {name: together[name] for name in ("title", "name", "category", "price") if name in together}
