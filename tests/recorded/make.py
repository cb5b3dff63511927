"""Make the recordings of this folder again. They are worth something only when made by the code they stand for.

    git worktree add ../old 79b7033 && cp -r tests/recorded/make.py tests/recorded/*.yaml ../old/tests/recorded/
    cd ../old && PYTHONPATH=. python tests/recorded/make.py

Runs on commit 79b7033 only, from the root of its checkout, on one CPU thread: it imports that commit's modules, and what
a later commit writes would hold that commit to itself. README.md says what each file is.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COMMIT = "79b7033"
HERE = Path("tests/recorded")
WORK = Path("build/recorded")
BRANDS = {"Nordwind": (40, 70, 160), "Café Sud": (190, 60, 40), "Ostra": (40, 140, 70)}
PRICES = {"Scarf": 39.5, "Bag": 189.0, "Coat": 1299.0, "Shoe": 95.0}
SPLITS = ["train"] * 16 + ["validation"] * 4 + ["test"] * 8
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
MARGIN = 0.03
# Where each training run is killed: (after this step's report, at this `last`, at this `best`).
KILLS = {"training-mlx": (7, 6, 4), "training-torch": (11, 10, 8), "training-dropout": (6, 5, None)}


def command(*words: object) -> list[str]:
    """The command line of `python -m WORDS`."""
    return [sys.executable, "-m", *map(str, words)]


def run(*words: object, allowed: tuple[int, ...] = (0,)) -> str:
    """Run `python -m WORDS`; its standard output."""
    done = subprocess.run(command(*words), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode in allowed, f"{words}: {done.returncode}\n{done.stderr}"
    return done.stdout


def draw(kind: str, colour: tuple[int, ...], rng: np.random.Generator) -> Image.Image:
    """A small picture of a product: its kind is the shape, its brand the colour."""
    w, h = (int(v) for v in rng.integers(28, 48, 2))
    picture = Image.new("RGB", (w, h), tuple(int(v) for v in rng.integers(200, 256, 3)))
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = (4 + int(v) for v in rng.integers(0, 4, 4))
    box = (left, top, w - right, h - bottom)
    if kind == "Scarf":
        pen.rectangle((w // 2 - 4, box[1], w // 2 + 3, box[3]), fill=colour)
    elif kind == "Bag":
        pen.ellipse(box, outline=colour, width=4)
    elif kind == "Coat":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(box[0], box[3]), (box[2], box[3]), (box[0], box[1])], fill=colour)
    return picture


def write_source() -> None:
    """Pictures, and two tables of them: a shop's own columns, and the published data set's."""
    rng = np.random.default_rng(11)
    WORK.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for i, split in enumerate(SPLITS):
        brand, kind = list(BRANDS)[i % 3], list(PRICES)[int(rng.integers(4))]
        colour = tuple(int(np.clip(v + rng.integers(-25, 26), 0, 255)) for v in BRANDS[brand])
        draw(kind, colour, rng).save(WORK / f"p{i:02d}.png", optimize=True)
        price = PRICES[kind] + (0 if i % 3 else 10)
        german = f"{price:,.2f} €".translate(str.maketrans(",.", ".,"))
        shop: dict[str, object] = {"Sku": f"P-{i:02d}", "Name": kind, "Brand": brand if i != 5 else "", "Price": german}
        rows.append(shop | {"Photo": f"p{i:02d}.png", "Set": split})
    # One row whose picture is missing, for rejected.csv.
    lost: dict[str, object] = {
        "Sku": "P-99",
        "Name": "Lost",
        "Brand": "Ostra",
        "Price": "1,00 €",
        "Photo": "p99.png",
        "Set": "train",
    }
    write_csv(WORK / "shop.csv", [*rows, lost])
    published = [
        {"title": f"{r['Brand']} {r['Name']}", "category3_code": str(r["Name"]).upper(), "full_price": 100 + i,
         "imageurl": r["Photo"], "product_code": r["Sku"], "brand": "Burberry"}
        for i, r in enumerate(rows[:10])
    ]  # fmt: skip
    write_csv(WORK / "published.csv", published)


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, text: str) -> None:
    """What a command printed, without its white space."""
    path.write_text(json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def make_catalogues() -> None:
    """shop: fields of its own; published: the default fields through the preset."""
    run("data.ingest", WORK / "shop.csv", "--output", HERE / "shop", "--config", HERE / "shop.yaml", "--processes", "1")
    run("data.ingest", WORK / "published.csv", "--output", HERE / "published", "--preset", "burberry", "--test", "0.3",
        "--processes", "1")  # fmt: skip


def describe() -> None:
    """What data.describe says of the catalogues."""
    for name in ("shop", "published"):
        lines = run("data.describe", HERE / name, "--model", HERE / "model", "--page", WORK / "page.html", "--json")
        write_json(HERE / f"{name}.describe.json", lines.splitlines()[-1])


def make_model() -> None:
    """A small checkpoint that has learnt to answer in the form of the shop's catalogue, and often to be right."""
    for folder in ("tests", "scripts"):
        sys.path.insert(0, folder)
    import checkpoint  # type: ignore[import-not-found]  # tests/checkpoint.py of that commit
    from tiny_texts import train_tokenizer

    with open(WORK / "shop.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [f"What does this shop sell here? Name: {r['Name']}, Brand: {r['Brand']}, Price: " for r in rows]
    tokenizer = train_tokenizer(texts, 400)
    checkpoint.VOCABULARY = tokenizer.get_vocab_size()
    random = checkpoint.write_checkpoint(
        WORK / "random",
        checkpoint.Shape(
            hidden=32, intermediate=64, heads=2, kv_heads=1, vision_hidden=8, vision_heads=1, patch=42, num_crops=1
        ),
        seed=3,
    )
    tokenizer.save(str(random / "tokenizer.json"))
    run("mlx_phi3v.train", "--config", HERE / "model.yaml", "--model", random, "--data", HERE / "shop", "--output",
        WORK / "pretrained")  # fmt: skip
    run("mlx_phi3v.fuse", "--model", random, "--adapter", WORK / "pretrained" / "last", "--save-path", WORK / "fused")
    run("mlx_phi3v.convert", "--model", WORK / "fused", "--mlx-path", HERE / "model", "--dtype", "bfloat16")
    # From here on it stands for a published checkpoint, whose identity is that of its weights.
    (HERE / "model" / "conversion.json").unlink()


def make_training(name: str) -> None:
    """A run killed between two checkpoints, as the kill left it, and the log of its copy that went on to the end."""
    after, last, best = KILLS[name]
    flags = ["mlx_phi3v.train", "--config", HERE / f"{name}.yaml", "--json", "--output"]
    for _ in range(20):  # the kill must fall before the next checkpoint
        shutil.rmtree(HERE / name, ignore_errors=True)
        process = subprocess.Popen(command(*flags, HERE / name), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if '"event": "step"' in line and json.loads(line)["step"] >= after:
                break
        process.kill()
        process.wait()
        state = json.loads((HERE / name / "last" / "state.json").read_text())
        if (state["step"], state["best_step"]) == (last, best) and not list((HERE / name).glob(".*")):
            break
    else:
        raise AssertionError(f"{name}: never killed at the right moment, {state}")
    shutil.copytree(HERE / name, WORK / name, symlinks=True)
    run(*flags, WORK / name, "--resume")
    shutil.copyfile(WORK / name / "log.jsonl", HERE / f"{name}.log.jsonl")


def make_runs() -> None:
    """Answers of both backends, of shards, and from elsewhere."""
    predict = ["eval.predict", "--config", HERE / "predict.yaml", "--output"]
    tuned = ["--adapter", HERE / "training-mlx"]
    features = ["--feature-cache", HERE / "features"]
    run(*predict, HERE / "runs" / "mlx", "--backend", "mlx", *tuned, *features)
    run(*predict, HERE / "runs" / "torch", "--backend", "torch", *tuned)
    run(*predict, HERE / "runs" / "other", "--backend", "torch", "--adapter", HERE / "training-torch", *features)
    for i in (1, 2):
        run(*predict, HERE / "runs" / f"shard-{i}", "--backend", "mlx", *tuned, "--shard", f"{i}/2")
    lines = (HERE / "runs" / "other" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"id": row["id"], "product": row["true"]["name"], "house": row["true"]["brand"], "cost": "95,00 €"}
            for row in map(json.loads, lines)]  # fmt: skip
    write_csv(HERE / "elsewhere.csv", rows)
    run("eval.bring", "--input", HERE / "elsewhere.csv", "--data", HERE / "shop", "--output", HERE / "runs" / "elsewhere",
        "--fields", "name=product", "brand=house", "price=cost")  # fmt: skip


def check_margins() -> None:
    """No recorded answer may hang on rounding: at every token the likeliest leads by more than MARGIN nats."""
    lines = [line for path in HERE.glob("runs/*/predictions.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line) for line in lines]
    answers.append(json.loads((HERE / "packed.answer.json").read_text(encoding="utf-8")))
    margins = [best[0][1] - best[1][1] for answer in answers for best in answer.get("top_k", [])]
    assert min(margins) > MARGIN, f"a token leads by {min(margins)} nats only; train the model longer"


def make_reports() -> None:
    """What the commands say of these runs, and a baseline."""
    runs, reports = HERE / "runs", HERE / "reports"
    reports.mkdir()
    score = run("eval.score", runs / "mlx", "--baseline", HERE / "baseline.jsonl", "--json")
    write_json(reports / "score-mlx.json", score)
    pairs = {"mlx-torch": ("mlx", "torch"), "mlx-other": ("mlx", "other"), "other-elsewhere": ("other", "elsewhere")}
    asked: dict[str, list[object]] = {name: [runs / a, runs / b] for name, (a, b) in pairs.items()}
    asked["baseline-other"] = [runs / "other", "--baseline", HERE / "baseline.jsonl"]
    for name, words in asked.items():
        write_json(reports / f"{name}.json", run("eval.compare", *words, "--json", allowed=(0, 1, 3)))


def make_checkpoints() -> None:
    """A packed copy of the model, the record of a fused one, and an answer of the packed copy."""
    packed = HERE / "packed"
    run("mlx_phi3v.convert", "--model", HERE / "model", "--mlx-path", packed, "-q", "--q-group-size", "32")
    tuned = ["--adapter", HERE / "training-mlx"]
    run("mlx_phi3v.fuse", "--model", packed, *tuned, "--save-path", WORK / "fused-packed")
    shutil.copyfile(WORK / "fused-packed" / "conversion.json", HERE / "fused.conversion.json")
    picture = sorted((HERE / "shop" / "images").glob("*/*.png"))[0]
    answer = run("mlx_phi3v.generate", "--model", packed, *tuned, "--image", picture, "--dtype", "float32",
                 "--question", "What does this shop sell here?", "--num-crops", "1", "--json")  # fmt: skip
    write_json(HERE / "packed.answer.json", answer.splitlines()[-1])


def main() -> None:
    """Make everything again."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    if not head.startswith(COMMIT):
        raise SystemExit(f"this is commit {head[:7]}; the recordings are made by {COMMIT} only")
    shutil.rmtree(WORK, ignore_errors=True)
    for path in HERE.iterdir():
        if path.name not in ("make.py", "README.md") and path.suffix != ".yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_source()
    make_catalogues()
    make_model()
    describe()
    for name in KILLS:
        make_training(name)
    make_runs()
    make_reports()
    make_checkpoints()
    check_margins()


if __name__ == "__main__":
    main()
