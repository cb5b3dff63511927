"""Write the recorded cases that `mlx_phi3v.doctor` runs, from tests/golden: `python scripts/write_recorded_cases.py`.

They are what the published code gave for the small random checkpoint of tests/golden: that checkpoint, whole, and a few of
its cases, with the logits of the last positions only. A test compares the folder with what this script makes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
FOLDER = ROOT / "mlx_phi3v" / "doctor" / "recorded"
# A photo of one crop, one of five, text alone, and text long enough for RoPE's long factors.
CASES = ("img200x200_crops1", "img500x160_crops4", "text_only", "long_text")
POSITIONS = 21  # the last ones, whose logits are kept: as many as the cases with photos have


def write(folder: Path) -> None:
    """Make `folder` again."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    shutil.copytree(GOLDEN / "checkpoint", folder / "checkpoint")
    arrays = np.load(GOLDEN / "cases.npz")
    cases: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for case in json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8")):
        if case["name"] not in CASES:
            continue
        cases.append(case | {"logits_from": case["seq_len"] - POSITIONS})
        for image in case["images"]:
            shutil.copyfile(GOLDEN / image, folder / image)
        kept |= {name: arrays[name] for name in arrays.files if name.startswith(case["name"] + ".")}
        kept[case["name"] + ".logits"] = kept[case["name"] + ".logits"][-POSITIONS:]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "cases.npz", **kept)


if __name__ == "__main__":
    write(FOLDER)
