"""Answer held-out rows with two models, and write into the second one's folder what changed: receipt.json, receipt.md.

    python -m eval.receipt phi3v-bf16 phi3v-4bit --data catalogue                          what the quantisation costs
    python -m eval.receipt tiny fused --adapter runs/mine --data catalogue --expect same   a fuse must change nothing

mlx_phi3v.fuse and mlx_phi3v.convert run it by themselves where they know a catalogue. Exit status: 0 where every answer has
the same tokens (SAME) or the verdict is EQUIVALENT; 1 WORSE, BETTER or, with --expect same, DIFFERENT: more than rounding
explains; 3 INCONCLUSIVE, 4 NOT MEANINGFUL, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli
from mlx_phi3v.progress import result, say

from .settings import ReceiptConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(ReceiptConfig, "python -m eval.receipt", __doc__ or "", argv)
    from mlx_phi3v.receipt import receipt_json  # with what loads a model: --help and a wrong flag need none of it

    from .make_receipt import exit_status, make_receipt

    receipt = make_receipt(config)
    result(config.json, event="receipt", **receipt_json(receipt))
    say(receipt.line, as_json=config.json)
    return exit_status(receipt)


console = partial(run_cli, main, mistake=2)

if __name__ == "__main__":
    console()
