"""The declared shapes of a run's documents: the manifest, a line of predictions, a line of a trace, a baseline's first line.

Keys that a later version may add are read over. What a run did not record is absent; a text may also be null.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlx_phi3v.task import ParseStatus

Count = Annotated[int, Meta(ge=0, le=2**53)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# In nats. Rounding and noise lift the logarithm of a probability a little above 0; none has an exponential that overflows.
LogProbability = Annotated[float, Meta(le=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
TopK = list[list[tuple[TokenId, LogProbability]]]  # for each step, the likeliest tokens and their log-probabilities in nats
Value = str | int | float | None  # of a field of the task


class ParsedShape(msgspec.Struct):
    """A field that was read from an answer; what is absent counts as missing."""

    value: Value | UnsetType = UNSET
    status: ParseStatus | UnsetType = UNSET


class PredictionShape(msgspec.Struct):
    """One line of `predictions.jsonl`, and of a baseline from its second line on."""

    id: str | int
    true: dict[str, Value]
    predicted: dict[str, ParsedShape]
    text: str | UnsetType | None = UNSET
    token_ids: list[TokenId] | UnsetType = UNSET
    logprobs: list[LogProbability] | UnsetType = UNSET
    top_k: TopK | UnsetType = UNSET
    finish: str | UnsetType | None = UNSET
    fingerprints: dict[str, str | None] | UnsetType = UNSET
    seconds: Seconds | UnsetType | None = UNSET
    image: str | UnsetType | None = UNSET
    product: str | UnsetType | None = UNSET

    def colons(self) -> int:
        """How many colons the line has, those in its texts too, where it has no key beyond these, none twice."""
        optional = (
            self.text, self.token_ids, self.logprobs, self.top_k, self.finish, self.fingerprints, self.seconds, self.image,
            self.product,
        )  # fmt: skip
        texts = [self.id, self.text, self.finish, self.image, self.product, *self.true, *self.true.values(), *self.predicted]
        keys = 3 + len(self.true) + len(self.predicted) + len(optional) - optional.count(UNSET)
        for item in self.predicted.values():
            keys += (item.value is not UNSET) + (item.status is not UNSET)
            texts.append(item.value)
        if self.fingerprints is not UNSET:
            keys += len(self.fingerprints)
            texts += self.fingerprints
            texts += self.fingerprints.values()
        return keys + sum([text.count(":") for text in texts if type(text) is str])


class TraceShape(msgspec.Struct):
    """One line of `trace-OTHER.jsonl`."""

    id: str | int
    token_ids: list[TokenId]
    logprobs: list[LogProbability]
    top_k: TopK | UnsetType = UNSET

    def colons(self) -> int:
        """As `PredictionShape.colons`."""
        return 3 + (self.top_k is not UNSET) + str(self.id).count(":")


class DeviceShape(msgspec.Struct):
    """What a comparison asks of a manifest's `device`."""

    dtype: str | None = None


class ModelShape(msgspec.Struct):
    """What a comparison asks of a manifest's `model_config`."""

    vocab_size: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class SettingsShape(msgspec.Struct):
    """What a comparison asks of a manifest's `settings`."""

    dtype: str | None = None
    temperature: float | None = None


class ManifestShape(msgspec.Struct):
    """`manifest.json`, and the `manifest` of a baseline. Runs that were imported have fewer keys than predicted ones."""

    schema: int
    task: dict[str, Any]
    backend: str | None = None
    label: str | None = None
    hashes: dict[str, str | None] = {}
    settings: SettingsShape = msgspec.field(default_factory=SettingsShape)
    catalogue: str | None = None
    split: str | None = None
    split_rows: Count | None = None
    limit: Count | None = None
    shard: tuple[Count, Count] | None = None
    model: str | None = None
    adapter: str | None = None
    model_config: ModelShape | None = None
    adapter_config: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    code: dict[str, str | bool | None] | None = None
    packages: dict[str, str | None] = {}
    device: DeviceShape | None = None
    batch_size: Count | None = None
    start: str | None = None
    end: str | None = None
    rows: Count | None = None
    seconds: Seconds | None = None
    merged: list[dict[str, Any]] | None = None
    made_from: dict[str, Any] | None = None


class BaselineShape(msgspec.Struct):
    """The first line of a baseline."""

    manifest: dict[str, Any]
