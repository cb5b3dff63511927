"""Let a model answer for every product of a split, row by row, resumable.

    python -m eval.predict --backend mlx --model tiny --adapter runs/mine --data catalogue --split test --output runs/mine-test
    python -m eval.predict ... --shard 2/4 --output part2      (then eval.merge)
    python -m eval.predict ... --trace OTHER_RUN               (score another run's answers under this model)

The run folder says what was run and on what (see `eval.runs.run`), so that `eval.compare` can hold it against any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from mlx_phi3v import cli
from mlx_phi3v.errors import run_cli
from mlx_phi3v.progress import result, say

from .answer import predict
from .settings import PredictConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(PredictConfig, "python -m eval.predict", __doc__ or "", argv)
    summary = predict(config)
    result(config.json, event="done", **summary)
    say(json.dumps(summary), as_json=config.json)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
