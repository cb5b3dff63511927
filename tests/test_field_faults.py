"""The bad inputs and faults that were gathered in the field, each run by its own script and judged by what it expects.

They lie beside the checkout (`shared/field/faults`: a folder each, with `run.sh` and `expected.txt`); without them every
test here is skipped. `pytest -m slow tests/test_field_faults.py -k run-` runs those of a kind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT, SHARED

FAULTS = SHARED / "field" / "faults"
CASES = sorted(path.parent.name for path in FAULTS.glob("*/run.sh"))
# What a case's own script prints on stderr where something was lost, left or falsified.
MARKERS = ("LOST", "BOTH_WENT_ON", "ORPHANS", "DIFFERS", "LEFT", "WENT ON")
# What the sentence must hold where the expectation says that it names something.
NAMED = {
    "names the YAML file": r"\.yaml|--config",
    "names the flag": r"--[a-z]",
    "names the adapter": r"adapter",
    "names the catalogue's file": r"catalogue\.json|\.arrow|/images/",
    "names the run's file and line": r"\.jsonl?\b",
    "names the file and the key": r"\.json|\.safetensors",
    "names the checkpoint": r"checkpoint|\.json|step-",
    "naming model.safetensors": r"model\.safetensors",
    "naming conversion.json": r"conversion\.json",
    "naming the index": r"index\.json",
    "naming the key": r"\bkey\b|: [a-z_.]+ ",
    "naming the line": r"\bline\b|\brow\b|does not exist",
    "cannot be READ": r"cannot (be )?read",
    "not permitted": r"not permitted",
}
_REFUSES = r"sentence|refused|says so|interrupted|not overwritten"
_WORKS = (
    r"\bworks|\bkept\b|stay|taken in|left out|left behind|no (worker|child)|noticed|page is written|ends well|given up|"
    r"not overwritten|converted anew|printed whole|no traceback$"
)


@dataclass(frozen=True)
class Done:
    """How a case ended: the status of its script, what it printed, and where its command was to write."""

    status: int
    out: str
    errors: str
    folder: Path

    @property
    def sentence(self) -> str:
        """The last line that an error is said in; "" where there is none."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""


def run(name: str, folder: Path) -> Done:
    """Run a case by its script, with a folder of its own for all it writes."""
    case = FAULTS / name
    out, temporary = folder / "out", folder / "tmp"
    out.mkdir()
    temporary.mkdir()
    script, paths = case / "run.sh", [str(ROOT)]
    if (case / "lib.py").exists():
        script = _own_copy(case, temporary)
    environment = os.environ | {
        "OUT": str(out), "TMPDIR": str(temporary), "PROJECT": str(ROOT), "PY": sys.executable, "BASE": str(FAULTS / "base"),
        "PYTHONPATH": os.pathsep.join(paths),
    }  # fmt: skip
    environment.pop("MLX_PHI3V_DEBUG", None)
    done = subprocess.run(
        ["bash", str(script)], cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=1800
    )
    return Done(done.returncode, done.stdout, done.stderr, out)


def _own_copy(case: Path, temporary: Path) -> Path:
    """A script that kills at every write names the machine it was written on: a copy of it names this one."""
    shutil.copytree(case, temporary, dirs_exist_ok=True)
    (temporary / "base").symlink_to(FAULTS / "base")
    for file in (*temporary.glob("*.py"), *temporary.glob("hook/*.py")):
        text = (
            file.read_text()
            .replace('Path("/project")', f"Path({str(ROOT)!r})")
            .replace('Path("/tmp")', f"Path({str(temporary)!r})")
        )
        text = text.replace('str(ROOT/".venv/bin/python")', repr(sys.executable))
        file.write_text(text)
    script = (case / "run.sh").read_text().replace("$PROJECT/.venv/bin/python", "$PY")
    (temporary / "run.sh").write_text(script)
    return temporary / "run.sh"


def judge(done: Done, expected: str, script: str) -> list[str]:
    """What is wrong with how a case ended; nothing where it ended as expected."""
    wrong = [f"{marker} on stderr" for marker in MARKERS if re.search(rf"^{marker}$", done.errors, re.MULTILINE)]
    # A case's own scripts run from stdin or from its folder.
    tracebacks = re.findall(r"^Traceback .*\n(?:[ ].*\n)*", done.errors + done.out, re.MULTILINE)
    if any(f'File "{ROOT}/' in traceback for traceback in tracebacks):
        wrong.append("a traceback")
    if "this is a fault of mlx-phi3v" in done.errors:
        wrong.append(f"a fault of ours: {done.sentence[:200]}")
    if done.status > 128 or done.status == 124:  # a signal: a crash below Python, or `timeout`
        wrong.append(f"status {done.status}: it crashed or did not end")
    if re.search(r"^== .*?([1-9]\d*) bad|\bwas not killed", done.out, re.MULTILINE):
        wrong.append(f"after a kill: {done.out.strip()[:600]}")
    may_refuse, may_work = re.search(_REFUSES, expected), re.search(_WORKS, expected)
    decides = not script.rstrip().endswith("exit 0")  # others print what they saw, and end with 0 whatever it was
    compares = "eval.compare" in script
    works = done.status in ((0, 1, 3) if compares else (0,)) and not done.sentence
    if decides and works and not may_work:
        wrong.append("it went on; it must be refused")
    if decides and not works:
        wrong += _of_a_refusal(done, expected, compares, bool(may_refuse))
    return wrong


def _of_a_refusal(done: Done, expected: str, compares: bool, may_refuse: bool) -> list[str]:
    wrong = []
    if not may_refuse and "no row of" not in done.sentence:  # every row was left out with its reason
        wrong.append("it was refused; it must work")
    if not done.sentence:
        wrong.append(f"no line 'error: ...', status {done.status}: {done.errors[-300:]!r}")
    statuses = (1, 2) if compares or "exit 2" in expected else (1,)
    if done.status not in statuses:
        wrong.append(f"status {done.status}, not {statuses[-1]}")
    wrong += [f"the sentence does not name it: {words}" for words, pattern in NAMED.items()
              if words in expected and not re.search(pattern, done.sentence)]  # fmt: skip
    if "nothing written" in expected and any(done.folder.glob("o*")):
        wrong.append("something was written")
    return wrong


@pytest.mark.slow
@pytest.mark.skipif(not CASES, reason=f"the field cases are not there ({FAULTS})")
@pytest.mark.parametrize("name", CASES)
def test_a_case_of_the_field_ends_as_it_must(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path)
    if done.status == 77:
        pytest.skip("this machine cannot make what the case needs (a mount)")
    expected = (FAULTS / name / "expected.txt").read_text().strip()
    wrong = judge(done, expected, (FAULTS / name / "run.sh").read_text())
    assert not wrong, f"{'; '.join(wrong)}\nexpected: {expected}\nstderr: {done.errors[-1500:]}"


ONE = "one sentence that names the flag and what it may be, exit 1, nothing written"
TRACE = f'Traceback (most recent call last):\n  File "{ROOT}/eval/score.py", line 1, in x\nKeyError\n'


@pytest.mark.parametrize(
    ("status", "errors", "expected", "wrong"),
    [
        (1, "error: --seed is -1; it must be 0 or more\n", ONE, ""),
        (0, "", ONE, "it must be refused"),
        (1, "error: it is wrong\n", ONE, "does not name it"),
        (70, "error: this is a fault of mlx-phi3v, not of yours: KeyError\n", ONE, "a fault of ours"),
        (1, TRACE, ONE, "a traceback"),
        (139, "", ONE, "it crashed"),
        (0, "LOST\n", "log.jsonl is not overwritten", "LOST on stderr"),
        (0, "", "the bad row is left out and the rest kept; or one sentence, exit 1", ""),
        (1, "error: s.csv cannot be read\n", "the bad row is left out and the rest kept; or one sentence, exit 1", ""),
        (1, "error: s.csv cannot be read\n", "works through the link", "it must work"),
        (1, "", "refused: the checkpoint lacks a tensor", "no line 'error: ...'"),
    ],
)
def test_an_end_is_judged_by_what_is_expected(status: int, errors: str, expected: str, wrong: str, tmp_path: Path) -> None:
    found = judge(Done(status, "", errors, tmp_path), expected, "$PY -m data.ingest x")
    assert wrong in "; ".join(found) and bool(found) == bool(wrong)
    (tmp_path / "o").mkdir()
    if expected == ONE and not wrong:
        assert judge(Done(status, "", errors, tmp_path), expected, "") == ["something was written"]
