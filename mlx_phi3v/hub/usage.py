"""How to run a model or an adapter, for its card: here, in mlx-vlm, in transformers and PEFT, as far as its files allow."""

from __future__ import annotations

import re
from pathlib import Path

from ..files import sha256_file
from ..model_file.source import MODEL_FILE
from ..probe.probe_file import PROBE_FILE
from . import facts
from .contents import Kind

_PROMPT = '--image photo.jpg --prompt "What is shown in this image?" --temperature 0'


# What the writer of transformers' layout says of the folder, kept from card to card: which code is in it is its knowledge.
_KEPT = ("<!-- of the published layout -->", "<!-- end of the published layout -->")
_LAYOUT = re.compile(r"# Phi-3-Vision for transformers\n\n[^\n]*\n\n(.*)\Z", re.DOTALL)  # the README that it writes


def kept_section(readme: str) -> str:
    """What a README, ours or that of the published layout's writer, says of that layout; nothing in any other."""
    start, end = (re.escape(mark) for mark in _KEPT)
    found = _LAYOUT.match(readme) or re.search(rf"{start}\n\n(.*?)\n\n{end}", readme, re.DOTALL)
    return found[1].strip() if found else ""


def usage_lines(folder: Path, kind: Kind, repo: str | None, base: str | None, kept: str = "") -> list[str]:
    """The section. repo: what the commands name; FOLDER where there is none yet. kept: see `kept_section`."""
    if kind == "adapter":
        return _adapter_usage(folder, repo or "FOLDER", base)
    return _model_usage(folder, repo or "FOLDER", kept)


def _model_usage(folder: Path, name: str, kept: str) -> list[str]:
    raw = facts.model_config(folder)
    has_file = raw.get("model_file") == MODEL_FILE and (folder / MODEL_FILE).is_file()
    lines = ["```bash", f"mlx_phi3v.generate --model {name} --image photo.jpg"]
    if (folder / PROBE_FILE).is_file():
        lines.append(
            f"mlx_phi3v.generate --model {name} --verify   # whether this copy computes what it did when it was written"
        )
    if has_file:
        lines += [f"python -m mlx_vlm.generate --model {name} {_PROMPT}", f"python -m mlx_vlm.server --model {name}"]
    lines += ["```", ""]
    if kept:
        lines += [_KEPT[0], "", kept.replace('"FOLDER"', f'"{name}"'), "", _KEPT[1], ""]
    elif not raw.get("auto_map"):
        lines += [
            "transformers does not open this form: `mlx_phi3v.convert --to-hf` and `fuse --hf` write one that it does.",
            "",
        ]
    return lines + (_code_lines(folder) if has_file else [])


def _code_lines(folder: Path) -> list[str]:
    """What a `model_file` is, and the hash of the one that is here."""
    return [
        "## This folder holds code",
        "",
        f"`config.json` names `{MODEL_FILE}` as its `model_file`. **mlx-vlm runs that file when it loads the folder**, without",
        "asking, and so does what is built on mlx-vlm, such as LM Studio. mlx_phi3v never runs it.",
        "",
        "Run it only if you trust where the folder came from. As this was written, its SHA-256 was",
        "",
        f"    {sha256_file(folder / MODEL_FILE)}",
        "",
        f"and `shasum -a 256 {MODEL_FILE}` shows what it is now. The same version of mlx-phi3v writes the same file into every",
        "folder.",
        "",
        "The file is the model as mlx-phi3v computes it. mlx-vlm's own phi3_v computes something else: crops are not put back",
        "on their grid, photos are stretched instead of padded, and two ids of each prompt are lost. It would be used without",
        "the entry `model_file`; `mlx_phi3v.convert --no-model-file` leaves both out.",
        "",
    ]


def _adapter_usage(folder: Path, name: str, base: str | None) -> list[str]:
    model, peft = base or "BASE", facts.is_peft(folder)
    here = name if name == "FOLDER" and not peft else "adapter-mlx"  # the adapter in mlx's form, as a folder
    lines = ["```bash", f"mlx_phi3v.generate --model {model} --adapter {name} --image photo.jpg"]
    if peft:
        lines.append(f"mlx_phi3v.export --adapter {name} --model {model} --output {here}")
    elif here != name:
        lines.append(f"hf download {name} --local-dir {here}")
    lines.append(f"python -m mlx_vlm.generate --model CONVERTED --adapter-path {here} {_PROMPT}")
    lines += ["```", "", f"CONVERTED is a folder that `mlx_phi3v.convert --hf-path {model}` writes.", ""]
    if peft:
        lines += ["```python", "from peft import PeftModel", "", f"# base: {model}, loaded by transformers"]
        lines += [f'model = PeftModel.from_pretrained(base, "{name}")', "```", ""]
    return lines
