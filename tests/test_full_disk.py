"""A full disk, for every command that writes: one sentence, what was whole stays, and with space the command ends well."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from mlx_phi3v.files import is_temporary
from tests.helpers.catalogue import random_picture, write_catalogue
from tests.helpers.here import run_here
from tests.helpers.paths import ROOT
from tests.helpers.small_disk import SmallDisk, small_disk
from tests.helpers.synthetic_runs import make_rows, write_run

SIZES = 20
MEND = r"free some space|raise the limit of a file's size"


@dataclass(frozen=True)
class Writer:
    """A command that writes. arguments: by the folder of its inputs and the disk. Its output is `out*` on that disk.

    in_place: its output grows where it is, so that a part of it may stay. slow: it loads a model or starts processes.
    whole: what the finished output is compared by; by default its bytes.
    """

    module: str
    arguments: Callable[[Path, Path], list[object]]
    in_place: bool = False
    slow: bool = False
    whole: Callable[[dict[str, bytes]], object] = dict


def _predictions(files: dict[str, bytes]) -> object:
    """A run without its times."""
    rows = [json.loads(line) for line in files["out/predictions.jsonl"].splitlines()]
    return sorted(files), sorted(json.dumps(row | {"seconds": 0}) for row in rows)


def _training(files: dict[str, bytes]) -> object:
    """The tensors of its checkpoints; a file's own bytes hold its metadata in any order."""
    stored = {name: load(data) for name, data in files.items() if name.endswith(".safetensors")}
    return sorted(files), {name: {key: array.tobytes() for key, array in found.items()} for name, found in stored.items()}


def _info(files: dict[str, bytes]) -> object:
    """A catalogue: its photos, and its fingerprint for the rest, which names its source."""
    fingerprint = json.loads(files["out/catalogue.json"])["fingerprint"]
    return sorted(files), fingerprint


def _left_out(files: dict[str, bytes]) -> object:
    """A cache: what finds no room is left out, and the command ends well without it."""
    return None


_PLAIN = ["--no-probe", "--receipt", 0]  # what these add is written as the rest is
_TRAIN = ["--num-crops", 1, "--r", 2, "--max-steps", 2, "--val-rows", 0, "--batch-size", 2, "--save-every", 1]

WRITERS = {
    "convert": Writer("mlx_phi3v.convert", lambda i, d: ["--hf-path", i / "model", "--mlx-path", d / "out", *_PLAIN]),
    "fuse": Writer(
        "mlx_phi3v.fuse",
        lambda i, d: ["--model", i / "model", "--adapter", i / "adapter", "--save-path", d / "out", *_PLAIN],
    ),
    "export": Writer(
        "mlx_phi3v.export", lambda i, d: ["--model", i / "model", "--adapter", i / "adapter", "--output", d / "out"]
    ),
    "export_data": Writer("data.export", lambda i, d: [i / "cat", "--output", d / "out"]),
    "sample": Writer("data.sample", lambda i, d: ["-o", d / "out", "--products", 12, "--processes", 1], whole=_info),
    "ingest": Writer(
        "data.ingest", lambda i, d: [i / "s.csv", "-o", d / "out", "--processes", 1, "--csv"], in_place=True, whole=_info
    ),
    "train": Writer(
        "mlx_phi3v.train",
        lambda i, d: ["--model", i / "model", "--data", i / "cat", "--output", d / "out", *_TRAIN],
        in_place=True, slow=True, whole=_training,
    ),
    "predict": Writer(
        "eval.predict",
        lambda i, d: ["--model", i / "model", "--data", i / "cat", "--output", d / "out", "--num-crops", 1,
                      "--max-new-tokens", 3],
        in_place=True, slow=True, whole=_predictions,
    ),
    "receipt": Writer(
        "eval.receipt.__main__",
        lambda i, d: [i / "model", i / "model", "--data", i / "cat", "--output", d / "out", "--resamples", 2],
        in_place=True, slow=True,
    ),
    "cache": Writer(
        "eval.predict",
        lambda i, d: ["--model", i / "model", "--data", i / "cat", "--output", i / uuid.uuid4().hex, "--num-crops", 1,
                      "--max-new-tokens", 2, "--feature-cache", d / "out"],
        in_place=True, slow=True, whole=_left_out,
    ),
    "score": Writer(
        "eval.score", lambda i, d: [i / "a", "--output", d / "out", "--resamples", 2], in_place=True, whole=_predictions
    ),
    "baseline": Writer("eval.score", lambda i, d: [i / "a", "--baseline", d / "out.jsonl", "--resamples", 2]),
    "csv": Writer("eval.score", lambda i, d: [i / "a", "--csv", d / "out.csv", "--resamples", 2]),
    "merge": Writer("eval.merge", lambda i, d: [i / "s1", i / "s2", "--output", d / "out"], whole=_predictions),
    "import_run": Writer(
        "eval.import_run",
        lambda i, d: ["--input", i / "p.csv", "--data", i / "cat", "--output", d / "out", "--text", "answer"],
        whole=_predictions,
    ),
    "compare": Writer("eval.compare.__main__", lambda i, d: [i / "a", i / "b", "--html", d / "out.html", "--resamples", 2]),
    "describe": Writer("data.describe.__main__", lambda i, d: [i / "cat", "--page", d / "out.html"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound inputs of all writers."""
    folder = tmp_path_factory.mktemp("inputs")
    model = make_checkpoint(
        hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, vision_hidden=8, vision_layers=2, patch=14
    )
    (folder / "model").symlink_to(model)
    args = AdapterArgs(r=2, base_model_name_or_path="base")
    save_adapter(folder / "adapter", args, init_adapter(load_model_config(model), args, 0), base_fingerprint(model))
    write_catalogue(folder / "cat", {"train": 6, "validation": 2, "test": 3}, (((40, 30),),))
    random_picture(60, 40, 0).save(folder / "p.png")
    random_picture(40, 60, 1).save(folder / "q.png")
    (folder / "s.csv").write_text("title,price,image\n" + "".join(f"Hat {i},{i + 1},{'pq'[i % 2]}.png\n" for i in range(12)))
    (folder / "p.csv").write_text("id,answer\n" + "".join(f"test-{i},Title: Hat {i}\n" for i in range(3)))
    rows = make_rows(24)
    write_run(folder / "a", rows)
    write_run(folder / "b", make_rows(24), label="b")
    for k in (0, 1):
        write_run(folder / f"s{k + 1}", rows[k::2], shard=[k + 1, 2])
    return folder


@pytest.fixture(params=[True, False], ids=["disk", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk, and what stands for one where none can be mounted."""
    with small_disk(tmp_path / "disk", mount=request.param) as made:
        if request.param and not made.real:
            pytest.skip("only root on Linux can mount a small disk")
        yield made


Ended = tuple[int, str]  # the exit status, and what was said on stderr


def here(writer: Writer, inputs: Path, disk: SmallDisk) -> Ended:
    """Run the command in this process."""
    done = run_here(writer.module, *writer.arguments(inputs, disk.folder))
    return done.returncode, done.stderr


def process(writer: Writer, inputs: Path, disk: SmallDisk) -> Ended:
    """Run the command as a user does."""
    arguments = [str(item) for item in writer.arguments(inputs, disk.folder)]
    module = writer.module.removesuffix(".__main__")
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def outputs(disk: SmallDisk) -> dict[str, bytes]:
    """The command's output, without what was there before it."""
    return {name: data for name, data in disk.files().items() if name.startswith("out")}


def fill_and_free(writer: Writer, inputs: Path, disk: SmallDisk, sizes: int, run: Callable[..., Ended]) -> dict[str, int]:
    """Run a command with less and less room -> how many runs failed as they must, and how many ended well all the same."""
    fine = (0, 1, 3) if "compare" in writer.module else (0,)
    status, errors = run(writer, inputs, disk)
    assert status in fine, errors
    whole, made = writer.whole(outputs(disk)), outputs(disk)
    total = sum(map(len, made.values())) if disk.real else max(map(len, made.values()))
    counts = {"refused": 0, "ended well": 0}
    for k in range(sizes):
        disk.clear()
        (disk.folder / "before").mkdir()
        (disk.folder / "before" / "mine.txt").write_text("mine" * 100)
        with disk.with_room(total * k // sizes):
            status, errors = run(writer, inputs, disk)
        where = f"{total * k // sizes} of {total} bytes: status {status}, {errors[-800:]!r}"
        left = disk.files()
        assert left.pop("before/mine.txt") == b"mine" * 100, where
        if status in fine and "error:" not in errors:  # the last bytes fit into what is left of a block
            assert writer.whole(outputs(disk)) == whole, where
            assert whole is not None or outputs(disk) == made or (str(disk.folder) in errors and re.search(MEND, errors)), where
            counts["ended well"] += 1
            continue
        counts["refused"] += 1
        _check_refusal(writer, disk, errors, status, where, left)
        status, errors = run(writer, inputs, disk)
        where = f"with space again, after {where}: {status} {errors[-800:]}"
        assert status in fine, where
        assert writer.whole(outputs(disk)) == whole, where
        assert not [path for path in disk.folder.rglob("*") if is_temporary(path)], where
    return counts


def _check_refusal(writer: Writer, disk: SmallDisk, errors: str, status: int, where: str, left: dict[str, bytes]) -> None:
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status in (1, 2) and len(lines) == 1 and "Traceback" not in errors, where
    assert str(disk.folder) in lines[0] and re.search(MEND, lines[0]), where
    assert not [path for path in disk.folder.rglob("*") if is_temporary(path)], where
    if not writer.in_place:
        assert not left and sorted(path.name for path in disk.folder.iterdir()) == ["before"], f"{sorted(left)} after {where}"


CHEAP = [name for name, writer in WRITERS.items() if not writer.slow]


@pytest.mark.parametrize("name", CHEAP)
def test_a_full_disk_loses_nothing(name: str, inputs: Path, disk: SmallDisk) -> None:
    if name in ("convert", "fuse"):
        pytest.importorskip("mlx")
    counts = fill_and_free(WRITERS[name], inputs, disk, 2, here)
    assert counts["refused"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("run", "sizes"), [(here, SIZES), (process, 2)], ids=["here", "process"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_after_any_number_of_bytes_loses_nothing(
    name: str, run: Callable[..., Ended], sizes: int, inputs: Path, tmp_path: Path, record_property: Any
) -> None:
    pytest.importorskip("mlx")
    with small_disk(tmp_path / "disk") as disk:
        counts = fill_and_free(WRITERS[name], inputs, disk, sizes, run)
    print(f"{name}, {run.__name__}: {counts} ({'a disk' if disk.real else 'a limit'})")
    record_property("figures", str(counts))
    assert sum(counts.values()) == sizes and counts["refused"] >= 1


@pytest.mark.parametrize("command", [["eval.score", "a"], ["eval.compare", "a", "b"]], ids=["score", "compare"])
def test_results_that_cannot_be_printed_are_an_error(command: list[str], inputs: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, open(disk.folder / "out.json", "wb") as out, disk.with_room(0):
        line = [sys.executable, "-m", command[0], *(str(inputs / name) for name in command[1:]), "--json", "--resamples", "2"]
        done = subprocess.run(line, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, timeout=300)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 2 - (command[0] == "eval.score") and re.search(MEND, said), done.stderr
