"""Kill `eval.predict` at random moments, resume it each time with another batch size, and compare the result with a whole run.

    python scripts/measure/kill_predictions.py [--backend torch] [--kills 10] [--products 120] [--temperature 1]

Prints how many rows have the same text and tokens, and the largest difference of any log-probability. Exits with 1 where one
has another text, or the rows are in another order.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eval.runs.run import Run


def main() -> int:
    """Make a catalogue, a whole run and a killed one; 0 if they are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--products", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", default="0")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sample = ["--products", str(options.products + 20), "--validation", "10", "--test", str(options.products)]
        subprocess.run([sys.executable, "-m", "data.sample", "--output", str(folder / "data"), *sample], check=True)
        command = [sys.executable, "-m", "eval.predict", "--backend", options.backend, "--data", str(folder / "data"),
                   "--temperature", options.temperature]  # fmt: skip
        subprocess.run([*command, "--output", str(folder / "whole")], check=True, stdout=subprocess.DEVNULL)
        killed = folder / "killed" / "predictions.jsonl"
        kills = 0
        while kills < options.kills:
            size = str(generator.choice((1, 2, 3, 5)))
            process = subprocess.Popen(
                [*command, "--output", str(folder / "killed"), "--batch-size", size], stdout=subprocess.DEVNULL
            )
            before = killed.stat().st_size if killed.exists() else 0
            while process.poll() is None and (not killed.exists() or killed.stat().st_size == before):
                time.sleep(0.005)
            time.sleep(generator.random() * 0.1)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
        rows_left = options.products - killed.read_bytes().count(b"\n")
        subprocess.run([*command, "--output", str(folder / "killed")], check=True, stdout=subprocess.DEVNULL)
        whole, again = ({row.id: row for row in Run.load(folder / name).rows} for name in ("whole", "killed"))
        assert list(whole) == list(again) and len(whole) == options.products
        same = sum(
            (row.text, row.token_ids, row.predicted) == (again[i].text, again[i].token_ids, again[i].predicted)
            for i, row in whole.items()
        )
        gap = max(abs(x - y) for i, row in whole.items() for x, y in zip(row.logprobs, again[i].logprobs))
        print(f"{options.backend}: killed {kills} times ({rows_left} rows left for the last resume)")
        print(f"{same} of {len(whole)} rows with the same text and tokens; largest log-probability difference {gap:.2g}")
        return 0 if same == len(whole) and kills == options.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
