"""Logs as evaluation harnesses write them, made from the shapes that their code documents."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LM_EVAL_NAME = "samples_gsm8k_2026-08-01T10-00-00.123456.jsonl"
LMMS_NAME = "20260801_100000_samples_mme.jsonl"


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def generated(i: int, right: bool, *, filter: str = "strict-match", **more: Any) -> dict[str, Any]:
    """A line of lm-evaluation-harness for a task whose answer is generated."""
    return {
        "doc_id": i, "doc": {"question": f"how much is {i}?", "photo": f"<Image at 0x{i:x}>"}, "target": str(i),
        "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": ["\n"]}}},
        "resps": [[f"I think it is {i if right else 'x'}"]], "filtered_resps": [str(i) if right else "[invalid]"],
        "filter": filter, "metrics": ["exact_match"], "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
        "exact_match": float(right), **more,
    }  # fmt: skip


def chosen(i: int, choice: int, *, right: int = 0, **more: Any) -> dict[str, Any]:
    """A line of lm-evaluation-harness for a task of choices: pairs of log-probability and whether it is the likeliest text."""
    pairs = [[str(-1.0 if k == choice else -3.5), "False"] for k in range(4)]
    return {
        "doc_id": i, "doc": {"question": f"which is {i}?"}, "target": str(right),
        "arguments": {f"gen_args_{k}": {"arg_0": "Q", "arg_1": f" word {k}"} for k in range(4)},
        "resps": [[pair] for pair in pairs], "filtered_resps": pairs, "filter": "none", "metrics": ["acc", "acc_norm"],
        "acc": float(choice == right), "acc_norm": 1.0, **more,
    }  # fmt: skip


def multimodal(i: int, right: bool, **more: Any) -> dict[str, Any]:
    """A line of lmms-eval: a single response has lost its list, the score of MME is an object."""
    return {
        "doc_id": i, "target": "Yes", "filtered_resps": "Yes" if right else "No", "token_counts": [None], "doc_hash": f"h{i}",
        "input": "Is it red?", "mme_score": {"question_id": f"q{i}", "category": "color", "score": float(right)},
        "submission": {"id": i}, **more,
    }  # fmt: skip


def inspect_sample(i: int, value: Any, *, epoch: int = 1, scorer: str = "match", **more: Any) -> dict[str, Any]:
    """A sample of an Inspect log."""
    return {
        "id": i, "epoch": epoch, "input": f"Is {i} even?", "target": " Yes", "messages": [],
        "output": {"model": "m", "choices": [{"message": {"role": "assistant", "content": "Yes"}, "stop_reason": "stop"}],
                   "completion": "Yes"},
        "scores": {scorer: {"value": value, "answer": "Yes"}}, "attachments": {}, "events": [], **more,
    }  # fmt: skip


def inspect_header(samples: int, **more: Any) -> dict[str, Any]:
    """The header of an Inspect log."""
    spec = {"task": "even", "model": "openai/small", "created": "2026-08-01", "dataset": {"samples": samples}, "config": {}}
    return {"version": 2, "status": "success", "eval": spec | more, "plan": {}, "stats": {}}


def write_eval(path: Path, samples: Sequence[Mapping[str, Any]], *, method: int = zipfile.ZIP_DEFLATED, **header: Any) -> Path:
    """A `.eval` archive; method 93 is zstd, which Inspect writes since 0.3.206."""
    members = {"header.json": inspect_header(len({sample["id"] for sample in samples}), **header)}
    members |= {f"samples/{item['id']}_epoch_{item['epoch']}.json": dict(item) for item in samples}
    data = {name: json.dumps(value).encode() for name, value in members.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if method == 93:
        path.write_bytes(zstd_archive(data))
        return path
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, value in data.items():
            archive.writestr(name, value)
    return path


def zstd_archive(members: Mapping[str, bytes]) -> bytes:
    """A zip archive with members of two zstd frames each (APPNOTE.TXT 4.3; Python before 3.14 writes none)."""
    import zstandard

    body, directory = b"", b""
    for name, data in members.items():
        half = len(data) // 2
        packed = b"".join(zstandard.ZstdCompressor().compress(piece) for piece in (data[:half], data[half:]))
        start = struct.pack("<5H3L", 20, 0, 93, 0, 33, zlib.crc32(data), len(packed), len(data))
        lengths = struct.pack("<2H", len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + start + lengths
        directory += struct.pack("<3H2L", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + start + lengths + name.encode() + packed
    end = struct.pack("<4H2LH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end
