"""Send SIGINT and SIGTERM to every command at several moments, then give the same command again.

    python scripts/measure/signal_commands.py                          # all commands, 5 moments a signal
    python scripts/measure/signal_commands.py --only convert fuse --moments 9

Every other signal goes to the whole process group, as a terminal sends it. An end is right with the status of the signal,
one line "interrupted" on stderr and no process left; the command after it must end as an undisturbed one does, and leave no
temporary file. A command that had ended before its signal is counted apart. Exit status 0 only if nothing went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_MARK = "SIGNAL_COMMANDS_MARK"
_LEFT_SECONDS = 5.0  # multiprocessing's helper sees the end of its pipe a moment after the command
_FIRST_SECONDS = 0.2  # Python's own start: no code of ours runs yet that could answer
_RECIPE = "epochs: 1\nbatch_size: 10\nr: 4\nvision: off\nprojector: off\nwarmup_steps: 1\nval_rows: 4\n"


@dataclass
class Tally:
    """What became of one command."""

    tries: int = 0
    ended_before: int = 0
    wrong_ends: int = 0
    children_left: int = 0
    wrong_reruns: int = 0
    details: list[str] = field(default_factory=list)

    def row(self, name: str) -> str:
        """The line of the table."""
        counts = (self.tries, self.ended_before, self.wrong_ends, self.children_left, self.wrong_reruns)
        return f"{name:<12}" + "".join(f"{count:>14}" for count in counts)


def start(module: str, arguments: Sequence[object], mark: str) -> subprocess.Popen[str]:
    """A command in a process group of its own; all that it starts carries the mark."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {_MARK: mark},
    )  # fmt: skip


def run(module: str, *arguments: object) -> None:
    """A command that prepares the inputs."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} failed: {done.stderr[-500:]}")


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark and run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def prepare(base: Path) -> None:
    """The inputs of all commands, in `base`."""
    run("data.sample", "-o", base / "data", "--products", 60, "--validation", 6, "--test", 12)
    training = ["--data", base / "data", "--output", base / "adapter", "--num-crops", 1, "--r", 2]
    run("mlx_phi3v.train", *training, "--max-steps", 2, "--val-rows", 2)
    for name in ("run", "other"):
        run("eval.predict", "--data", base / "data", "--output", base / name, "--label", name, "--max-new-tokens", 24)
    for i in (1, 2):
        run("eval.predict", "--data", base / "data", "--output", base / f"s{i}", "--shard", f"{i}/2", "--max-new-tokens", 4)
    photos = sorted((base / "data" / "images").glob("*/*"))
    rows = (json.dumps({"title": f"Hat {i}", "price": i, "image": str(photos[i % len(photos)])}) for i in range(4000))
    (base / "shop.jsonl").write_text("\n".join(rows))
    (base / "recipe.yaml").write_text(_RECIPE)
    (base / "short.yaml").write_text(_RECIPE.replace("epochs: 1", "max_steps: 2"))
    run("data.export", base / "data", "--output", base / "exported")


def commands(base: Path, out: Path) -> dict[str, tuple[str, list[object]]]:
    """Name -> module and arguments; each writes into `out` only."""
    data, new = ["--data", base / "data"], out / "o"
    photo = min((base / "data" / "images").glob("*/*"))
    golden = Path(__file__).resolve().parents[2] / "tests" / "golden"
    ingest = [base / "shop.jsonl", "-o", new, "--image", "image", "--field", "title=title", "price=price:number"]
    train = [*data, "--output", new, "--num-crops", 1, "--r", 2, "--max-steps", 8, "--save-every", 2, "--val-rows", 2]
    demo = ["--output", new, "--products", 135, "--test", 5, "--recipe", base / "recipe.yaml", "--backends", "mlx"]
    written = base / "run" / "predictions.jsonl"
    return {
        "convert": ("mlx_phi3v.convert", ["--mlx-path", new, "--no-probe"]),
        "fuse": ("mlx_phi3v.fuse", ["--adapter", base / "adapter", "--save-path", new, "--no-probe", "--receipt", 0]),
        "sample": ("data.sample", ["-o", new, "--products", 300, "--processes", 2]),
        "ingest": ("data.ingest", [*ingest, "--processes", 2]),
        "describe": ("data.describe", [base / "data", "--page", out / "page.html"]),
        "plan": ("mlx_phi3v.plan", [*data]),
        "train": ("mlx_phi3v.train", [*train, "--resume"]),
        "generate": ("mlx_phi3v.generate", ["--image", photo, "--question", "What?", "--max-new-tokens", 600]),
        "predict": ("eval.predict", [*data, "--output", new]),
        "score": ("eval.score", [base / "run", "--output", new, "--baseline", out / "b.jsonl"]),
        "merge": ("eval.merge", [base / "s1", base / "s2", "--output", new]),
        "import_run": ("eval.import_run", [*data, "--input", written, "--output", new, "--text", "text"]),
        "compare": ("eval.compare", [base / "run", base / "other", "--html", out / "page.html"]),
        "doctor": ("mlx_phi3v.doctor", ["--quick"]),
        "export_data": ("data.export", [base / "data", "--output", new]),
        "restore": ("data.ingest", [base / "exported", "-o", new]),
        "export": ("mlx_phi3v.export", ["--adapter", base / "adapter", "--output", new]),
        "train_seeds": (
            "eval.train_seeds",
            [*data, "--output", new, "--seeds", 1, "--recipe", base / "short.yaml", "--backends", "mlx", "--limit", 4],
        ),
        "plan_eval": ("eval.plan", [base / "run", base / "other"]),
        "parity": ("eval.parity", ["--golden", golden, "--backend", "mlx"]),
        "eval": ("eval", demo),
    }


def interrupt(
    name: str, base: Path, out: Path, number: signal.Signals, delay: float, group: bool, expected: int, tally: Tally
) -> bool:
    """One try: start, signal after `delay` seconds, look; false where the command had ended before."""
    module, arguments = commands(base, out)[name]
    mark = uuid.uuid4().hex
    running = start(module, arguments, mark)
    try:
        running.wait(delay)
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(running.pid, number)
    _, errors = running.communicate()
    tally.tries += 1
    said = [line for line in errors.splitlines() if line and not line.startswith("note: ")]
    moment = f"{number.name} after {delay:.2f} s to the {'group' if group else 'command'}"
    ended_before = running.returncode == expected and "interrupted" not in said
    if ended_before:
        tally.ended_before += 1
    elif running.returncode != 128 + number or said != ["interrupted"]:
        tally.wrong_ends += 1
        tally.details.append(f"{moment}: exit {running.returncode}, {said[-3:]}")
    until = time.monotonic() + _LEFT_SECONDS
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.1)
    left = marked(mark)
    if left:
        tally.children_left += len(left)
        tally.details.append(f"{moment}: left {[' '.join(process.cmdline())[:120] for process in left]}")
        for process in left:
            process.kill()
    return not ended_before


def again(name: str, base: Path, out: Path, expected: int, tally: Tally) -> None:
    """The same command after a signal: it ends as an undisturbed one does, and leaves nothing temporary."""
    module, arguments = commands(base, out)[name]
    rerun = start(module, arguments, "")
    _, errors = rerun.communicate()
    litter = [path.name for path in out.rglob(".*") if path.is_file() or path.is_dir()]
    if rerun.returncode != expected or litter:
        tally.wrong_reruns += 1
        tally.details.append(f"again: exit {rerun.returncode}, {errors.splitlines()[-1:]}, left {litter[:3]}")


def measure(name: str, base: Path, moments: int) -> Tally:
    """All signals and moments of one command."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        out.mkdir()
        began = time.monotonic()
        whole = start(*commands(base, out)[name], "")
        _, errors = whole.communicate()
        seconds = time.monotonic() - began
        if not 0 <= whole.returncode < 64 or "error: " in errors:  # compare has a status for each verdict
            raise SystemExit(f"{name} fails undisturbed: {errors[-500:]}")
        for number in (signal.SIGINT, signal.SIGTERM):
            for place in range(moments):
                delay = max(seconds * (place + 0.5) / moments, _FIRST_SECONDS)
                for _ in range(3):  # on a busy machine no two runs take the same time
                    shutil.rmtree(out)
                    out.mkdir()
                    if interrupt(name, base, out, number, delay, place % 2 == 1, whole.returncode, tally):
                        break
                    delay = max(delay * 0.6, _FIRST_SECONDS)
                again(name, base, out, whole.returncode, tally)
    return tally


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names of commands; by default all")
    parser.add_argument("--moments", type=int, default=5)
    parser.add_argument("--base", type=Path, help="a folder for the inputs, made if it is missing; by default a temporary one")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would its children
    with tempfile.TemporaryDirectory() as temporary:
        base = options.base or Path(temporary) / "base"
        if not base.exists():
            base.mkdir(parents=True)
            prepare(base)
        heads = ("tries", "ended before", "wrong ends", "children left", "wrong reruns")
        print("command     " + "".join(f"{head:>14}" for head in heads), flush=True)
        wrong = 0
        for name in options.only or commands(base, base):
            tally = measure(name, base, options.moments)
            print(tally.row(name), *(f"    {line}" for line in tally.details), sep="\n", flush=True)
            wrong += tally.wrong_ends + tally.children_left + tally.wrong_reruns
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
