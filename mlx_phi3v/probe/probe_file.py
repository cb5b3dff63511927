"""`probe.json`: what is asked about which picture, the answer's first tokens, and their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..config_shapes import Crops
from ..documents import inside, read_as
from ..errors import UserError

PROBE_FILE = "probe.json"
# In nats, by the coarser dtype of both computations: fp32 sums in another order, and two steps of bf16 at logits of 16 to 32.
TOLERANCE = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.25}
_Token = Annotated[int, msgspec.Meta(ge=0, le=1 << 22)]


class Case(msgspec.Struct, kw_only=True, frozen=True):
    """One question. logprobs: natural logarithms of the probabilities of `token_ids`, each after those before it."""

    picture: str
    sha256: str
    num_crops: Crops
    prompt: str
    token_ids: Annotated[list[_Token], msgspec.Meta(min_length=1, max_length=64)]
    logprobs: list[Annotated[float, msgspec.Meta(le=1e-6)]]


class Probe(msgspec.Struct, kw_only=True, frozen=True):
    """`probe.json`. dtype, backend: what the log-probabilities were computed in, and on. tolerance_nats: by dtype.

    source_gap_nats: of a fused model, the largest gap to base and adapter; null where it was not measured.
    """

    schema: int
    version: str
    backend: str
    dtype: str
    tolerance_nats: dict[str, float]
    cases: Annotated[list[Case], msgspec.Meta(min_length=1, max_length=16)]
    source_gap_nats: float | None = None


@dataclass(frozen=True)
class Gap:
    """How far a computation is from what a probe expects. where: the picture and token of the largest gap."""

    nats: float
    tolerance: float
    tokens: int
    photos: int
    where: str

    @property
    def applied(self) -> bool:
        """Whether the gap is one that rounding makes."""
        return self.nats <= self.tolerance

    def __str__(self) -> str:
        """ "probe: applied, gap 3e-06 nats over 24 tokens of 3 photos"."""
        over = f"over {self.tokens} tokens of {self.photos} photos"
        if self.applied:
            return f"probe: applied, gap {self.nats:.1g} nats {over}"
        return f"probe: NOT applied, gap {self.nats:.2g} nats {over} (at {self.where}), more than {self.tolerance:g}"


def read_probe(folder: Path) -> Probe:
    """The probe of a model folder, its pictures checked. Raises UserError where there is none, or it is not whole."""
    path = folder / PROBE_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {PROBE_FILE}; mlx_phi3v.convert and mlx_phi3v.fuse write one")
    probe = read_as(path, "probe", Probe)
    for case in probe.cases:
        if len(case.logprobs) != len(case.token_ids):
            raise UserError(
                f"{path}: {case.picture} has {len(case.token_ids)} tokens and {len(case.logprobs)} log-probabilities"
            )
        if not inside(folder, case.picture, path).is_file():
            raise UserError(f"{folder} lacks {case.picture}, which its {PROBE_FILE} names; copy the folder again")
    return probe


def probe_json(probe: Probe) -> dict[str, Any]:
    """The probe as plain values, for `files.write_json`."""
    values: dict[str, Any] = msgspec.to_builtins(probe)
    return values
