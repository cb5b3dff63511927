"""The installed commands, in a folder that holds a user's own eval.py and data.py, and a data/ beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.wheel import Installed
from tests.test_wheel import MODULES

TRAP = "raise SystemExit('a file of the user was imported: ' + __file__)\n"
# Names of ours, and of the standard library that worker processes import as they start.
TRAPS = ("eval.py", "data.py", "data/__init__.py", "random.py", "pickle.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder; what the tests of this module make there builds up."""
    folder = tmp_path_factory.mktemp("user")
    for name in TRAPS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TRAP)
    yield folder


@pytest.fixture(scope="module")
def catalogue(installed: Installed, folder: Path) -> Path:
    """Drawn there by two worker processes."""
    flags = ["--products", 30, "--validation", 4, "--test", 4, "--processes", 2, "--json"]
    made = json.loads(installed.run(folder, "mlx_phi3v.sample", "-o", "catalogue", *flags).stdout)
    assert made["processes"] == 2 and made["rows"] == {"train": 22, "validation": 4, "test": 4}
    return folder / "catalogue"


@pytest.fixture(scope="module")
def adapter(installed: Installed, folder: Path, catalogue: Path) -> Path:
    """Trained there for two steps, with the flags of mlx-lm."""
    pytest.importorskip("mlx")
    flags = ["--iters", 2, "--batch-size", 2, "--val-rows", 2, "--lora-rank", 2, "--adapter-path", "adapter"]
    installed.run(folder, "mlx_phi3v.train", "--data", "catalogue", *flags)
    assert json.loads((folder / "adapter" / "settings.json").read_text())["max_steps"] == 2
    return folder / "adapter"


def test_the_traps_close(installed: Installed, folder: Path) -> None:
    done = installed.run(folder, "-m", "data.sample", "--help", status=1)
    assert "a file of the user was imported" in done.stderr


def test_a_command_teaches_itself_by_the_name_that_was_typed(installed: Installed, folder: Path) -> None:
    """The first in a process of its own, the others one after another in one."""
    assert set(MODULES) <= set(installed.commands)
    code = """
import pathlib, runpy, sys
sys.path.pop(0)  # as where the script is started, which puts its own folder there
for script in map(pathlib.Path, sys.argv[1:]):
    sys.argv = [str(script), "--help"]
    print("\\f" + script.name)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0, script
"""
    first, *others = sorted(MODULES)
    done = installed.run(folder, "-c", code, *(installed.environment / "bin" / name for name in others))
    shown = dict(page.split("\n", 1) for page in done.stdout.split("\f")[1:])
    shown[first] = installed.run(folder, first, "--help").stdout
    assert shown.keys() == MODULES.keys()
    for name, page in shown.items():
        assert page.startswith(f"usage: {name} ") and f"\n    {name} " in page and "python -m" not in page, page


def test_a_mistake_names_the_command_that_was_typed(installed: Installed, folder: Path) -> None:
    done = installed.run(folder, "mlx_phi3v.train", "--bakend", "mlx", status=1)
    assert done.stderr.splitlines() == [
        "error: unrecognized arguments: --bakend mlx; did you mean --backend?; see mlx_phi3v.train --help"
    ]
    done = installed.run(folder, "mlx_phi3v.compare", "one", status=2)
    assert done.stderr.startswith("error: give two runs") and len(done.stderr.splitlines()) == 1


def test_a_table_is_ingested_by_worker_processes_and_described(installed: Installed, folder: Path, catalogue: Path) -> None:
    pytest.importorskip("httpx")
    photos = sorted(path.relative_to(folder) for path in catalogue.rglob("*.jpg"))[:6]
    lines = ["Photo,Name,Price", *(f"{photo},Scarf {i},{i}.00" for i, photo in enumerate(photos))]
    (folder / "shop.csv").write_text("\n".join(lines))
    fields = ["--image", "Photo", "--field", "title=Name", "price=Price:number:EUR", "--validation", 0.4, "--processes", 2]
    made = json.loads(
        installed.run(folder, "mlx_phi3v.ingest", "shop.csv", "-o", "shop", *fields, "--json").stdout.splitlines()[-1]
    )
    assert sum(split["rows"] for split in made["splits"].values()) == 6
    installed.run(folder, "mlx_phi3v.describe", "shop")
    assert (folder / "shop.html").is_file()


def test_a_run_is_planned(installed: Installed, folder: Path, catalogue: Path) -> None:
    flags = ["--data", "catalogue", "--gflops", 50, "--max-seq-length", 4096, "--json"]
    assert json.loads(installed.run(folder, "mlx_phi3v.plan", *flags).stdout)["peak_gb"] > 0


def test_an_adapter_answers_and_is_fused(installed: Installed, folder: Path, catalogue: Path, adapter: Path) -> None:
    photo = sorted(catalogue.rglob("*.jpg"))[0]
    flags = ["--adapter-path", "adapter", "--image", photo, "-m", 8, "--temp", 0.5, "--top-p", 0.9, "--json"]
    done = installed.run(folder, "mlx_phi3v.generate", "--model", "tiny", *flags)
    assert 1 <= len(json.loads(done.stdout.splitlines()[-1])["token_ids"]) <= 8
    installed.run(folder, "mlx_phi3v.fuse", "--model", "tiny", "--adapter-path", "adapter", "--save-path", "fused")
    installed.run(folder, "mlx_phi3v.convert", "--model", "fused", "--mlx-path", "packed", "-q", "--q-group-size", 32)
    sampled = ["--temp", 0.5, "--top-p", 0.9, "--seed", 3, "--limit", 1, "--max-tokens", 8]
    installed.run(folder, "mlx_phi3v.predict", "--model", "packed", "--data", "catalogue", "--output", "sampled", *sampled)
    settings = json.loads((folder / "sampled" / "manifest.json").read_text())["settings"]
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (0.5, 0.9, 3)
    receipts = [json.loads((folder / name / "receipt.json").read_text()) for name in ("fused", "packed")]
    assert [receipt["rows"] for receipt in receipts] == [4, 4]  # of the catalogue that the adapter was trained on
    assert receipts[0]["verdict"] != "DIFFERENT" and receipts[0]["weights_checked"] and not receipts[0]["weights_wrong"]
    done = installed.run(folder, "mlx_phi3v.generate", "--model", "fused", "--verify", "--json")
    assert done.stderr.splitlines()[-1].startswith("note: probe: applied, gap ")
    config = json.loads((folder / "packed" / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4}


def test_runs_are_made_shared_out_merged_scored_and_compared(
    installed: Installed, folder: Path, catalogue: Path, adapter: Path
) -> None:
    flags = ["--data", "catalogue", "--adapter-path", "adapter", "--max-tokens", 32, "--per-device-eval-batch-size", 4]
    for name in ("part1", "part2"):
        installed.run(folder, "mlx_phi3v.predict", *flags, "--output-dir", name, "--shard", f"{name[-1]}/2")
    installed.run(folder, "mlx_phi3v.merge", "part1", "part2", "--output", "whole")
    scores = json.loads(installed.run(folder, "mlx_phi3v.score", "whole", "--resamples", 50, "--json").stdout)
    assert scores["rows"] == 4
    rows = [json.loads(line) for line in (folder / "whole" / "predictions.jsonl").read_text().splitlines()]
    (folder / "theirs.jsonl").write_text("".join(json.dumps({"id": row["id"], "said": row["text"]}) + "\n" for row in rows))
    theirs = ["--data", "catalogue", "--text", "said", "--output", "theirs"]
    installed.run(folder, "mlx_phi3v.import", "--input", "theirs.jsonl", *theirs)
    flags = ["--html", "page.html", "--json", "--resamples", 50]
    done = installed.run(folder, "mlx_phi3v.compare", "whole", "theirs", *flags, status=3)  # alike, but of four rows only
    assert json.loads(done.stdout)["verdict"] == "INCONCLUSIVE" and (folder / "page.html").is_file()


def test_the_whole_job_starts_its_commands_there(installed: Installed, folder: Path) -> None:
    """Its child processes run in the same folder."""
    pytest.importorskip("mlx")
    (folder / "recipe.yaml").write_text("iters: 1\nbatch_size: 2\nval_rows: 2\nr: 2\n")
    flags = ["--products", 118, "--test", 2, "--backends", "mlx", "--recipe", "recipe.yaml", "--output", "job", "--json"]
    done = installed.run(folder, "mlx_phi3v.demo", *flags)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
