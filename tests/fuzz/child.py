"""A process that gives one target mutated files: `python -m tests.fuzz.child TARGET COUNT SEED FOLDER`.

What it finds goes into FOLDER/report.json. An input lies in FOLDER/in while it is tried, and FOLDER/number counts them:
a crash below Python leaves both.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mlx_phi3v.backend import set_up
from tests.fuzz.mutations import FOLDER, OUTSIDE, damaged
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watch import Watch, peak_bytes


def make_outside(folder: Path) -> None:
    """Sound files where no input may lead."""
    from PIL import Image
    from safetensors.numpy import save_file

    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "secret.png")
    save_file({}, folder / "secret.safetensors")
    (folder / "secret.json").write_text("{}")


class Child:
    """Tries inputs of one target in `folder`."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.work = target, folder / "in"
        self.work.mkdir()
        make_outside(folder / "outside")
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.work)
        target.make(self.work)
        (self.work / "link.png").symlink_to(folder / "outside" / "secret.png")
        self.sound = {name: (self.work / name).read_bytes() for name in target.files if (self.work / name).exists()}
        self.names = list(target.files)
        for variant in range(2 * len(self.names)):  # what is imported late is imported now, and the sound files are sound
            self.clean()
            target.entry(self.work, variant)
        self.watch = Watch(self.work, folder / "outside", target.may_read)
        self.number = os.open(folder / "number", os.O_WRONLY | os.O_CREAT)
        self.outside = str(folder / "outside").encode()

    def clean(self) -> None:
        """The sound files in place, and no output."""
        shutil.rmtree(self.work / "out", ignore_errors=True)
        for left in self.work.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        (self.work / "out").mkdir()

    def try_one(self, data: DataObject) -> None:
        """Draw an input and run it."""
        at = data.draw(st.integers(0, len(self.names) - 1))
        if self.names[at] not in self.sound:  # this Pillow lacks a format
            return
        # A target of few files and many commands: any file with any of them. Of many: the file's own.
        variant = at + len(self.names) * data.draw(st.integers(0, 63))
        name = self.names[at]
        anywhere = self.sound[name].replace(str(self.work).encode(), FOLDER.encode())
        changed = damaged(data.draw, self.target.files[name], anywhere).replace(OUTSIDE.encode(), self.outside)
        changed = changed.replace(FOLDER.encode(), str(self.work).encode())
        (self.work / name).write_bytes(changed)
        os.pwrite(self.number, b"%8d" % (self.watch.number + 1), 0)
        self.watch.run(lambda: self.target.entry(self.work, variant))
        self.keep_examples(name, changed)
        (self.work / name).write_bytes(self.sound[name])
        self.clean()

    def keep_examples(self, name: str, changed: bytes) -> None:
        """Keep the first input of each failure, to be looked at."""
        for failure in self.watch.failures:
            if failure.number == self.watch.number:
                kept = self.work.parent / "kept" / f"{failure.number}-{Path(name).name}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(changed)


def main() -> None:
    """Run and report."""
    name, count, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    set_up("mlx")
    child = Child(TARGETS[name], folder)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(st.data())
    def every(data: DataObject) -> None:
        child.try_one(data)

    every()
    watch = child.watch
    report = {
        "inputs": watch.number, "accepted": watch.accepted, "slowest": watch.slowest, "peak": peak_bytes(),
        "failures": [failure.to_dict() for failure in watch.failures],
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
