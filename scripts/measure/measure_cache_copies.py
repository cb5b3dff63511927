"""Bytes of keys and values that are copied as rows leave a batch, others join it, or go on from texts read before, with torch.

    python scripts/measure/measure_cache_copies.py --before COMMIT

256 answers of 8 to 96 tokens by the built-in model, prompts of 200 to 400 tokens, 16 rows at a time, as on an accelerator (rows
join where a fourth has ended) and as on a CPU (where half has). What counts are the bytes that torch writes in `keep_rows` and
`join`, over those of the keys and values of the prompts that joined, which have to be written once. And what is written for 1
and 16 prompts of about 1,000 tokens, read together, that go on from texts in the prefix cache. --before COMMIT counts with that
commit's package too.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from measure_decoding import at_commit
from torch.utils._python_dispatch import TorchDispatchMode

from mlx_phi3v.answer_batch import AnswerBatch, RowState, answers
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.kv_cache import LayerCache
from mlx_phi3v.prefix_cache import PrefixCache
from mlx_phi3v.sampling import Sampling

SIZE, COUNT = 16, 256


class Written(TorchDispatchMode):
    """Counts the bytes that operations write: those of results that are no views, and those written in place."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            given = [x for x in args if isinstance(x, torch.Tensor)]
            in_place = func.overloadpacket.__name__.endswith("_")
            if in_place or all(x.untyped_storage().data_ptr() != result.untyped_storage().data_ptr() for x in given):
                self.bytes += result.nbytes
        return result


def some_rows() -> list[RowState]:
    """Rows of unlike prompts and answers."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        ids = np.full(int(random.integers(200, 401)), 5, np.int64)
        rows.append(RowState(Example(f"row {i}", ids, np.full(len(ids), -100), ()), Sampling(), int(random.integers(8, 97))))
    return rows


def copies(on_device: bool) -> dict[str, float]:
    """Bytes written in each of the calls, over those of the keys and values of all prompts that joined."""
    backend: Any = load_backend("torch", resolve_model("tiny"), dtype="float32")
    backend.scores_on_device = on_device
    seen: Counter[str] = Counter()

    def counted(name: str, method: Any, cache: Any, *others: Any) -> None:
        if name == "join":
            seen["joined"] += sum(int(sum(other.lengths)) * other.token_bytes() for other in others)
        with Written() as written:
            method(cache, *others)
        seen[name] += written.bytes

    for name in ("keep_rows", "join"):
        setattr(backend, name, partial(counted, name, getattr(backend, name)))
    for _ in answers(backend, some_rows(), (), SIZE):
        pass
    return {name: round(seen[name] / seen["joined"], 2) for name in ("keep_rows", "join")}


def prefix_copies(rows: int) -> dict[str, float]:
    """Bytes written to go on from so many texts and join them, over those of the keys and values of the prompts."""
    backend: Any = load_backend("torch", resolve_model("tiny"), dtype="float32")
    prefixes, random, seen = PrefixCache(backend.config, 10**10), np.random.default_rng(0), 0

    def answer(texts: list[np.ndarray]) -> AnswerBatch:
        examples = [Example("text", ids, np.full(len(ids), -100), ()) for ids in texts]
        return AnswerBatch(backend, [RowState(example, Sampling(), 2) for example in examples], (), prefixes=prefixes)

    def counted(method: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal seen
            with Written() as written:
                result = method(*args, **named)
            seen += written.bytes
            return result

        return call

    texts = [random.integers(3, 900, int(random.integers(900, 1101))) for _ in range(rows)]
    first = answer(texts)
    while first.rows:
        first.step()
    token = first.backend.prefill(collate([Example("", texts[0], texts[0], ())], backend.config))[1].token_bytes()
    longer = [np.append(ids, random.integers(3, 900, 30)) for ids in texts]
    with (
        mock.patch.object(PrefixCache, "find", counted(PrefixCache.find)),
        mock.patch.object(
            LayerCache, "make_room", counted(getattr(LayerCache, "make_room", None)), create=True
        ),  # newer than some
        mock.patch.object(backend, "join", counted(backend.join)),
    ):
        answer(longer).step()
    return {"to go on": round(seen / (token * sum(map(len, longer))), 2)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="count with that commit's package too")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    now = {where: copies(where == "accelerator") for where in ("accelerator", "cpu")}
    now |= {f"prefix cache, {rows} rows": prefix_copies(rows) for rows in (1, 16)}
    if args.raw:
        print(json.dumps(now))
        return
    once = at_commit(args.before, __file__) if args.before else {}
    for where, found in now.items():
        print(json.dumps({"where": where, **({"before": once[where]} if once else {}), "now": found}), flush=True)


if __name__ == "__main__":
    main()
