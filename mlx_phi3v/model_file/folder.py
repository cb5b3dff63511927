"""Put the `model_file` into a checkpoint folder, with a README that says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from ..files import read_json, sha256_bytes, write_json, write_text
from .chat_template import CHAT_TEMPLATE
from .source import MODEL_FILE, model_source

README = "README.md"
_SOURCE_TEMPLATE = "source_chat_template"  # in tokenizer_config.json: the template that ours replaced, or null
_README = """\
# Phi-3-Vision for MLX

Written by mlx-phi3v {version}; `conversion.json` says of which weights.

```bash
mlx_phi3v.generate --model FOLDER --image photo.jpg
python -m mlx_vlm.generate --model FOLDER --image photo.jpg --prompt "What is shown in this image?" --temperature 0
python -m mlx_vlm.server --model FOLDER
mlx_phi3v.generate --model FOLDER --verify   # where there is a probe.json: does it compute here what it did there?
python FOLDER/{name}                         # the same through mlx-vlm
```

## This folder holds code

`config.json` names `{name}` as its `model_file`. **mlx-vlm runs that file when it loads the folder**, without asking, and so
does what is built on mlx-vlm, such as LM Studio. mlx_phi3v never runs it.

Run it only if you trust where the folder came from. As it was written, its SHA-256 is

    {digest}

and `shasum -a 256 {name}` shows what it is now. The same version of mlx-phi3v writes the same file into every folder.

The file is the model as mlx-phi3v computes it. mlx-vlm's own phi3_v computes something else: crops are not put back on their
grid, photos are stretched instead of padded, and two ids of each prompt are lost. It would be used without the entry
`model_file`; `mlx_phi3v.convert --no-model-file` leaves both out.
"""


def model_file_entries(raw: dict[str, Any], wanted: bool) -> None:
    """Make the entries of a `config.json` right for a folder with our `model_file`, or without one.

    LM Studio's engine makes the processor before the model, and then mlx-vlm's own, where there is a `vision_config`; nothing
    reads that entry of a Phi-3-V.
    """
    raw.pop("auto_map", None)  # it names remote code, which nothing here runs
    raw.pop("model_file", None)  # the source's, which is not copied
    if wanted:
        raw.pop("vision_config", None)
        raw["model_file"] = MODEL_FILE


def restore_chat_template(folder: Path, published: str) -> None:
    """Put the chat template back that `write_model_file` replaced; `published` where it is not known. Others stay."""
    settings = folder / "tokenizer_config.json"
    given = read_json(settings, "tokenizer settings") if settings.is_file() else {}
    template = given.pop(_SOURCE_TEMPLATE, published)
    if given.get("chat_template") != CHAT_TEMPLATE:
        return
    if template is None:
        del given["chat_template"]
    else:
        given["chat_template"] = template
    write_json(settings, given)


def write_model_file(folder: Path) -> None:
    """Write the file, the README and the chat template into a folder whose `config.json` names the file."""
    text = model_source()
    write_text(folder / MODEL_FILE, text)
    digest = sha256_bytes(text.encode())
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        given = read_json(settings, "tokenizer settings")
        ours = given.get("chat_template") == CHAT_TEMPLATE
        source = {} if ours else {_SOURCE_TEMPLATE: given.get("chat_template")}
        write_json(settings, {**given, **source, "chat_template": CHAT_TEMPLATE})
    write_text(folder / README, _README.format(version=__version__, name=MODEL_FILE, digest=digest))
