"""Flags that several commands have, each written once; a field of a settings class takes one as its default."""

from __future__ import annotations

from typing import Any

from .backend_names import DTYPES
from .flags import option
from .ranges import MAX_CROPS, MAX_ROWS


def compute_dtype() -> Any:
    """--dtype of what computes."""
    return option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)


def kv_bits() -> Any:
    """--kv-bits of what answers."""
    return option(None, help="bits of a cached key or value, 8 or 4; by default as computed", at_least=4, at_most=8)


def compiled_step() -> Any:
    """--compile of what answers."""
    return option(False, help="compile the step of a token, once for each of a few shapes; pays on some machines")


def answered_crops() -> Any:
    """--num-crops of what answers about photos as they come."""
    return option(
        None, help="most crops a photo is cut into; by default as in training, else the model's own",
        at_least=1, at_most=MAX_CROPS,
    )  # fmt: skip


def model_file() -> Any:
    """--model-file of what writes a model."""
    return option(True, help="write the code with which mlx-vlm and LM Studio run the model as this project does")


def probe() -> Any:
    """--probe of what writes a model."""
    return option(True, help="store three photos with the log-probabilities that the model gives, to check it with")


def receipt_rows() -> Any:
    """--receipt of what writes a model."""
    return option(32, help="held-out rows answered before and after, for receipt.json; 0: none", at_least=0, at_most=MAX_ROWS)


def upload_repo() -> Any:
    """--upload-repo of what writes a folder."""
    return option(None, help="upload the folder to this repository of the hub, OWNER/NAME")


def public() -> Any:
    """--public, beside --upload-repo."""
    return option(False, help="let everyone see that repository, where it is made; private otherwise")
