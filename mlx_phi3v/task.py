"""The task: the fields of a product, the prompt, the answer template, and how an answer is parsed.

Training writes answers and scoring parses them through the same object, so the two always agree.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .errors import UserError

FieldKind = Literal["text", "category", "number", "score"]
NUMBERS = ("number", "score")  # the kinds whose values are numbers
ParseStatus = Literal["ok", "missing", "duplicate", "malformed", "truncated"]

QUESTION = "What is shown in this image?"  # the published training example's, as is its answer's template
TEMPLATE = "Product: {title}, Category: {category3_code}, Full Price: {full_price}"
END = "<|end|>"
_SPECIAL = re.compile(r"<(?=\|[^|<>]*\|>|/?s>|unk>)")


def image_tags(count: int) -> str:
    """`<|image_1|>`, `<|image_2|>` and so on, a line each."""
    return "\n".join(f"<|image_{k}|>" for k in range(1, count + 1))


def chat_prompt(question: str, images: int) -> str:
    """One user turn about so many images, with the white space of the published training example.

    The question is text: special tokens and image tags in it are defused, so it can neither end its turn nor answer itself.
    """
    return f"<|user|>\n{image_tags(images)}{defused(question)}<|end|><|assistant|>\n"


def defused(text: str) -> str:
    """Text in which no special token is left: `<|end|>` becomes `‹|end|>`.

    Once is enough: what a replacement leaves holds no `<` that starts a token, and no text around it can make one.
    """
    return _SPECIAL.sub("‹", text)


PROMPT = chat_prompt(QUESTION, 1)
_LONGEST_NUMBER = 100  # characters; of more digits than a float has room for it is no price
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Field:
    """One thing to read off a photo: `text` (free), `category` (one of a set) or `number` (a price).

    `score` is of imported runs alone: what another harness gave the answer, 0 to 1; its true value is 1.
    """

    name: str
    kind: FieldKind
    currency: str | None = None


@dataclass(frozen=True)
class ParsedField:
    """A field read from an answer: `value` is None unless `status` is "ok". Numbers are floats."""

    value: str | float | None
    status: ParseStatus


@dataclass(frozen=True)
class Task:
    """Prompt, answer template and fields. Immutable, JSON-serialisable through `to_dict`.

    `template` names each field once in braces; the text before a name is its label. A row without a field
    leaves out the label too.
    """

    fields: tuple[Field, ...] = (
        Field("title", "text"),
        Field("category3_code", "category"),
        Field("full_price", "number", "USD"),
    )
    prompt: str = PROMPT
    template: str = TEMPLATE
    _labels: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [item.name for item in self.fields]
        pieces = _pieces(self.template)
        used = [name for _, name, _, _ in pieces if name is not None]
        if sorted(used) != sorted(names) or len(set(names)) != len(names):
            raise UserError(f"the template names {used} but the task's fields are {names}; name each field once, as {{name}}")
        if defused(self.template) != self.template:
            token = _SPECIAL.search(self.template)
            shown = self.template[token.start() :].partition(">")[0] if token else ""
            raise UserError(f"the template holds the special token {shown}>, which acts in an answer; remove it")
        if pieces and pieces[-1][1] is None:
            raise UserError(f"the template ends in text after its last field ({pieces[-1][0]!r}); end it with a field")
        labels = dict(zip(used, (literal for literal, name, _, _ in pieces if name is not None)))
        if any(not labels[name].strip() for name in used[1:]):
            raise UserError("two fields of the template have no label between them; put one such as ', Price: ' between them")
        if len({label.strip(_GLUE) for label in labels.values()}) != len(labels):
            raise UserError("two fields of the template have the same label; give each its own")
        order = {name: i for i, name in enumerate(used)}
        object.__setattr__(self, "fields", tuple(sorted(self.fields, key=lambda item: order[item.name])))
        object.__setattr__(self, "_labels", tuple(labels[name] for name in used))

    def labels(self) -> dict[str, str]:
        """Field -> what the template calls it; the field's name where it stands without a label."""
        shown = (label.strip(_GLUE).rstrip(":").rstrip() for label in self._labels)
        return {item.name: label or item.name for item, label in zip(self.fields, shown)}

    def answer(self, row: Mapping[str, Any]) -> str:
        """The text the model should give for `row` (without the end token). Missing fields are left out."""
        text = ""
        for item, label in zip(self.fields, self._labels):
            value = row.get(item.name)
            if is_missing(value):
                continue
            text += (label if text else label.lstrip(_GLUE)) + self.format(item, value)
        return text

    def format(self, item: Field, value: Any) -> str:
        """The text of one value: a number as Python's float, text on one line with special tokens defused."""
        return str(float(value)) if item.kind in NUMBERS else clean_text(str(value))

    def parse(self, text: str, *, truncated: bool = False) -> dict[str, ParsedField]:
        """Read an answer back, field by field.

        A label that appears twice gives "duplicate", no label "missing", a value that does not parse "malformed". With
        `truncated` (the answer hit its length limit) the last field found is "truncated", as its end may be missing.
        """
        text = text.split(END)[0]
        found, starts = self._labels_in(text)
        parsed: dict[str, ParsedField] = {}
        last = max(starts, default=0)
        for item in self.fields:
            spots = found[item.name]
            if len(spots) != 1:
                parsed[item.name] = ParsedField(None, "duplicate" if spots else "missing")
                continue
            if truncated and spots[0][0] == last:
                parsed[item.name] = ParsedField(None, "truncated")
            else:
                first, end = _value_span(text, spots[0], starts)
                parsed[item.name] = _read(item, text[first:end])
        return parsed

    def spans(self, text: str) -> dict[str, tuple[int, int]]:
        """Where in an answer `parse` reads each field's value: [first character, end); a field not found once has none.

        >>> Task().spans("Product: wool scarf, Category: SCARVES, Full Price: 12.0")["category3_code"]
        (31, 38)
        """
        text = text.split(END)[0]
        found, starts = self._labels_in(text)
        spans = {name: _value_span(text, spots[0], starts) for name, spots in found.items() if len(spots) == 1}
        return {name: (first, end) for name, (first, end) in spans.items() if first < end}

    def _labels_in(self, text: str) -> tuple[dict[str, list[tuple[int, int]]], dict[int, str]]:
        """(field -> where its label stands in the text, where a label starts -> what the template puts before it)."""
        found: dict[str, list[tuple[int, int]]] = {}
        for item, label in zip(self.fields, self._labels):
            bare = label.strip(_GLUE)
            if not bare:  # only a first field may have no label: it starts the text
                found[item.name] = [(0, 0)]
                continue
            spots = [(m.start(), m.end()) for m in re.finditer(r"(?:^|(?<=[\s,;|]))" + re.escape(bare), text)]
            found[item.name] = spots
        glues = {start: _glue_before(label) for (name, label) in zip(found, self._labels) for start, _ in found[name]}
        return found, glues

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as stored in `catalogue.json`."""
        return {
            "prompt": self.prompt,
            "template": self.template,
            "fields": [
                {"name": item.name, "kind": item.kind} | ({"currency": item.currency} if item.currency else {})
                for item in self.fields
            ],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`. Raises UserError for an unknown key or kind."""
        if not isinstance(value, Mapping):
            raise UserError(f"the task is a {type(value).__name__}; it must be an object with fields, prompt and template")
        unknown = set(value) - {"prompt", "template", "fields"}
        if unknown:
            raise UserError(f"unknown key {min(map(str, unknown))!r} in the task; known keys: fields, prompt, template")
        listed = value.get("fields", [f.__dict__ for f in cls.fields])
        if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
            raise UserError("the fields of the task are no list; give each a name and a kind")
        fields = [_field(item) for item in listed]
        prompt, template = value.get("prompt", PROMPT), value.get("template")
        template = default_template(fields) if template is None else template
        for name, text in (("prompt", prompt), ("template", template)):
            if not isinstance(text, str):
                raise UserError(f"the {name} of the task is {text!r}; it must be text")
        return cls(tuple(fields), prompt, template)


def _pieces(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """The template's labels and names. Raises UserError for braces that do not close, and for formats."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"the template has a brace that is not closed or not opened ({error}); write {{name}}") from None
    formatted = next((name for _, name, form, conversion in pieces if name is not None and (form or conversion)), None)
    if formatted is not None:
        raise UserError(f"the template formats {formatted!r}; write {{{formatted}}} alone, values are written as they are")
    return pieces


def _field(item: Any) -> Field:
    name = item.get("name") if isinstance(item, Mapping) else None
    if not isinstance(name, str) or not name or not name.isprintable():
        raise UserError(f"a field of the task is {item!r}; give its name and kind")
    extra = set(item) - {"name", "kind", "currency"}
    if extra:
        raise UserError(f"unknown key {min(map(str, extra))!r} in field {item['name']!r}; known keys: currency, kind, name")
    if item.get("kind") not in get_args(FieldKind):
        raise UserError(f"field {item['name']!r} is of kind {item.get('kind')!r}; choose text, category or number")
    currency = item.get("currency")
    if currency is not None and not (isinstance(currency, str) and currency.isprintable() and len(currency) <= 40):
        raise UserError(f"field {item['name']!r} has the currency {currency!r}; write its code, such as EUR")
    return Field(item["name"], item["kind"], currency)


_GLUE = " ,;|\n\t"


def _glue_before(label: str) -> str:
    return label[: len(label) - len(label.lstrip(_GLUE))]


def _value_span(text: str, label: tuple[int, int], starts: Mapping[int, str]) -> tuple[int, int]:
    """Where the value behind a label is: up to the next label, without white space and what separates the two."""
    start, end = label
    following = min((s for s in starts if s > start), default=None)
    raw = text[end:following]
    if following is not None:
        # What the template puts before the next label; of another separator, one sign.
        glue = starts[following]
        raw = raw.removesuffix(glue) if glue and raw.endswith(glue) else re.sub(r"[,;|]\s*$", "", raw)
    first = end + len(raw) - len(raw.lstrip())
    return first, first + len(raw.strip())


def default_template(fields: list[Field]) -> str:
    """`Title: {title}, Category: {category}`: the template where the user gives none."""
    return ", ".join(f"{item.name.replace('_', ' ').title()}: {{{item.name}}}" for item in fields)


def is_missing(value: Any) -> bool:
    """Whether a field has no value: None, NaN or blank text."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())


def clean_text(text: str) -> str:
    """One line, no special tokens: `<|end|>` becomes `‹|end|>`, so user text can never end an answer."""
    return defused(" ".join(text.split()))


def _read(item: Field, raw: str) -> ParsedField:
    if not raw:
        return ParsedField(None, "malformed")
    if item.kind not in NUMBERS:
        return ParsedField(raw, "ok")
    if not _NUMBER.fullmatch(raw) or len(raw) > _LONGEST_NUMBER:
        return ParsedField(None, "malformed")
    return ParsedField(float(raw.replace(",", "")), "ok")
