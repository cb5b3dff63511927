"""Answer for every row of a split with a model. An interrupted run is resumed.

    python -m eval.predict --backend mlx --model tiny --adapter runs/mine --data catalogue --split test --output runs/mine-test
    python -m eval.predict ... --shard 2/4 --output shard2     (then eval.merge)
    python -m eval.predict ... --trace OTHER_RUN               (score another run's answers under this model)

The run folder records model, data, settings and machine (see `eval.runs.run`). `eval.compare` compares it with any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from mlx_phi3v import cli
from mlx_phi3v.errors import run_cli
from mlx_phi3v.progress import result, say

from .settings import PredictConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(PredictConfig, "python -m eval.predict", __doc__ or "", argv)
    from .answer_rows import predict  # with what loads a model: --help and a wrong flag need none of it

    summary = predict(config)
    result(config.json, event="done", **summary)
    say(json.dumps(summary), as_json=config.json)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
