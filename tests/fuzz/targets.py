"""What is fuzzed: small sound files of each kind, and the entry that a command reads them by."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.checkpoint import Shape, write_checkpoint


@dataclass(frozen=True)
class Target:
    """A kind of file from outside.

    make: writes a sound folder. files: which of its files are mutated, and as what kind (see `mutations`).
    entry: reads the folder, which is all that it may read; `variant` chooses among several commands.
    may_read: what it may read of the folder outside all the same.
    """

    make: Callable[[Path], None]
    files: Mapping[str, str]
    entry: Callable[[Path, int], object]
    may_read: tuple[str, ...] = ()


SMALL = Shape(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, vision_hidden=8, vision_layers=2, patch=14, shards=2)
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def _checkpoint(folder: Path) -> None:
    write_checkpoint(folder / "model", SMALL)


def _open_checkpoint(folder: Path, variant: int) -> object:
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.checkpoint.headers import open_checkpoint
    from mlx_phi3v.config import load_model_config

    config = load_model_config(folder / "model")
    open_checkpoint(folder / "model", config)
    base_fingerprint(folder / "model")
    if variant % 16 == 0:
        from mlx_phi3v.plan import main

        return main(["--model", str(folder / "model"), "--gflops", "10"])
    return 0


def _load_weights(folder: Path, variant: int) -> object:
    from mlx_phi3v.backend import load_backend

    return load_backend("mlx", folder / "model")


def _ask(folder: Path, variant: int) -> object:
    from mlx_phi3v.generate import main

    flags = ["--model", str(folder / "model"), "--max-new-tokens", "2"]
    question = (
        ["--question", "What is red?<|end|>"] if variant % 2 else ["--image", str(folder / "photo.png"), "--num-crops", "1"]
    )
    return main([*flags, *question])


def _tokenizer(folder: Path) -> None:
    _checkpoint(folder)
    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))


def _adapter(folder: Path) -> None:
    from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.config import load_model_config

    _checkpoint(folder)
    args = AdapterArgs(r=2, base_model_name_or_path="base")
    tensors = init_adapter(load_model_config(folder / "model"), args, 0)
    save_adapter(folder / "adapter", args, tensors, base_fingerprint(folder / "model"))


def _load_adapter(folder: Path, variant: int) -> object:
    from mlx_phi3v.adapters import load_adapter
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.config import load_model_config

    return load_adapter(folder / "adapter", load_model_config(folder / "model"), base_fingerprint(folder / "model"))


def _image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _photos(folder: Path) -> None:
    """Each allowed format, and the ways of storing pixels that have decoders of their own."""
    image = _image(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {kind: _encoded(image, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")}
    files |= {kind: _encoded(image, kind) for kind in ("AVIF", "JPEG2000") if kind in Image.SAVE}
    files |= {"EXIF": _encoded(image, "JPEG", exif=exif), "CMYK": _encoded(image.convert("CMYK"), "JPEG")}
    files |= {"ALPHA": _encoded(image.convert("RGBA"), "PNG"), "PALETTE": _encoded(image.convert("P"), "PNG")}
    grey = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    files |= {"GREY16": _encoded(grey, "PNG"), "LZW": _encoded(image, "TIFF", compression="tiff_lzw")}
    files |= {"TIFF16": _encoded(grey, "TIFF"), "PROGRESSIVE": _encoded(image, "JPEG", progressive=True)}
    files |= {"ANIMATED": _encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)])}
    files |= {"MPO": _encoded(image, "MPO", save_all=True, append_images=[image.rotate(180)])}
    for name, data in files.items():
        (folder / name).write_bytes(data)


PHOTOS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "EXIF", "CMYK", "ALPHA", "PALETTE",
          "GREY16", "LZW", "TIFF16", "PROGRESSIVE", "ANIMATED", "MPO")  # fmt: skip


def _look(folder: Path, variant: int) -> object:
    """The mutated photo: which one it is, `variant` says."""
    from data.ingest.photos import PhotoLimits, PhotoUnusableError, clean_photo
    from mlx_phi3v.crops import process_image
    from mlx_phi3v.errors import UserError
    from mlx_phi3v.photo import Photo, photo_size, thumbnail

    path = folder / PHOTOS[variant % len(PHOTOS)]
    thumbnail(path, 64)
    try:
        clean_photo(path.read_bytes(), PhotoLimits())
    except PhotoUnusableError as error:
        raise UserError(str(error)) from None
    size = photo_size(path)
    photo = Photo.read(path)
    assert photo.size == size, (photo.size, size)
    return process_image(photo.rgb, 1)


_COLUMNS = ("title", "price", "kind", "image", "code")
_ROWS = [
    ("Wool hat", "1,299.00 EUR", "HATS", "photo.png", "0012"),
    ("Coat; long", "12", "COATS", "", "x"),
    ("Schal", "7.5", "SCARVES", "../outside/secret.png", ""),
    ("Bag", "", "BAGS", "photo.png", "9"),
]


def _tables(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import Dataset

    records = [dict(zip(_COLUMNS, row)) for row in _ROWS]
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([_COLUMNS, *_ROWS])
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "t.json").write_text(json.dumps(records))
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a hat"}]
    chat = {"messages": turns, "images": ["photo.png"]}
    (folder / "chat.jsonl").write_text((json.dumps(chat) + "\n") * 2)
    table = pa.Table.from_pylist([record | {"price": i + 0.5, "at": i} for i, record in enumerate(records)])
    table = table.set_column(table.schema.get_field_index("at"), "at", table["at"].cast(pa.timestamp("s")))
    parquet.write_table(table, folder / "t.parquet")
    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))
    Dataset.from_list(records).save_to_disk(str(folder / "saved"))
    shutil.copy(folder / "photo.png", folder / "saved" / "photo.png")


_SOURCES = ("t.csv", "t.tsv", "t.jsonl", "t.json", "chat.jsonl", "t.parquet", "saved/data-00000-of-00001.arrow",
            "saved/state.json", "saved/dataset_info.json")  # fmt: skip


def _ingest(folder: Path, variant: int) -> object:
    from data.ingest import main

    source = _SOURCES[variant % len(_SOURCES)].split("/")[0]
    fields = (
        [] if source == "chat.jsonl" else ["--field", "title=title", "price=price:number", "--code", "code", "--image", "image"]
    )
    return main([str(folder / source), "-o", str(folder / "out" / "c"), "--processes", "1", "--json", *fields])


def _yaml(folder: Path) -> None:
    (folder / "train.yaml").write_text(
        "data: cat\noutput: out\nlearning_rate: 1e-4\nepochs: 2\nr: 8\nseed: 3\nval_rows: 10\nadam_betas: [0.9, 0.999]\n"
        "projector: lora\nlora_dropout: .05\nmax_length: 2048\n"
    )
    (folder / "ingest.yaml").write_text(
        "source: t.csv\noutput: out\nfields:\n  title: {column: name, kind: text, required: yes}\n"
        '  price: {column: p, kind: number, currency: EUR, decimal: ","}\nimage: {columns: [a, b]}\n'
        "template: 'T: {title}, P: {price}'\nprompt: What is it?\nallow_hosts: [\"a:443\"]\nvalidation: 0.2\n"
    )
    (folder / "predict.yaml").write_text(
        "data: cat\noutput: out\nmodel: m\nlimit: 5\ntemperature: 0.0\nshard: 1/2\nlabel: mine\n"
    )
    (folder / "other.yaml").write_text(
        "seed: 1\nresamples: 10\nproducts: 200\ntest: 20\nbackends: [mlx, torch]\nmargin_category: 2.0\nallow: [decoding]\n"
        "runs: [a, b]\nnum_crops: 4\nsample: 100\nimage: [x.png]\ntop_p: .9\nq_bits: 4\noutput: o\nmodel: tiny\n"
    )


def _configs() -> list[tuple[type, str]]:
    from data.describe.__main__ import DescribeConfig
    from data.ingest.ingest_config import IngestConfig
    from data.sample.draw_catalogue import SampleConfig
    from eval.compare.__main__ import CompareConfig
    from eval.demo.settings import DemoConfig
    from eval.import_run import ImportConfig
    from eval.merge import MergeConfig
    from eval.parity.__main__ import ParityConfig
    from eval.predict.settings import PredictConfig
    from eval.score import ScoreConfig
    from mlx_phi3v.convert import ConvertConfig
    from mlx_phi3v.fuse import FuseConfig
    from mlx_phi3v.generate import GenerateConfig
    from mlx_phi3v.plan import PlanConfig
    from mlx_phi3v.training.train_config import TrainConfig

    return [
        (TrainConfig, "mlx_phi3v.train"), (PlanConfig, "mlx_phi3v.plan"), (IngestConfig, "data.ingest"),
        (PredictConfig, "eval.predict"), (CompareConfig, "eval.compare"), (ScoreConfig, "eval.score"),
        (DescribeConfig, "data.describe"), (SampleConfig, "data.sample"), (DemoConfig, "eval"),
        (ImportConfig, "eval.import_run"), (MergeConfig, "eval.merge"), (ParityConfig, "eval.parity"),
        (ConvertConfig, "mlx_phi3v.convert"), (FuseConfig, "mlx_phi3v.fuse"), (GenerateConfig, "mlx_phi3v.generate"),
    ]  # fmt: skip


_YAMLS = ("train.yaml", "ingest.yaml", "predict.yaml", "other.yaml")


def _read_settings(folder: Path, variant: int) -> object:
    """Each file with the command that it is of; the last with any."""
    from mlx_phi3v.cli import parse

    configs = _configs()
    name = _YAMLS[variant % len(_YAMLS)]
    cls, module = {"train.yaml": configs[variant % 2], "ingest.yaml": configs[2], "predict.yaml": configs[3]}.get(
        name, configs[4 + variant // 4 % (len(configs) - 4)]
    )
    path = folder / name
    if name == "other.yaml":  # the keys that the command has: an unknown one would be all that is found
        known = {field.name.encode() for field in dataclasses.fields(cls)}
        lines = [line for line in path.read_bytes().split(b"\n") if line.split(b":")[0] in known or b":" not in line]
        path.write_bytes(b"\n".join(lines))
    return parse(cls, f"python -m {module}", "", ["--config", str(path)])


def _catalogue(folder: Path) -> None:
    from tests.helpers.catalogue import write_catalogue

    write_catalogue(folder / "cat", {"train": 3, "validation": 2}, (((40, 30),), ((30, 40), (20, 20)), ()))


def _read_catalogue(folder: Path, variant: int) -> object:
    from data.describe.__main__ import main
    from mlx_phi3v.catalogue import Catalogue, iterate

    if variant % 8 == 0:
        return main([str(folder / "cat"), "--page", str(folder / "out" / "page.html")])
    catalogue = Catalogue(folder / "cat")
    for name in catalogue.info["splits"]:
        split = catalogue.split(name)
        for row in iterate(split):
            catalogue.task.answer(row)
        for _ in split.image_sizes():
            pass
    return 0


def _runs(folder: Path) -> None:
    from tests.helpers.synthetic_runs import answer, changed, make_rows, write_run

    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))
    right = make_rows(4, right=1.0, image=str(folder / "photo.png"))
    wrong = changed(right, lambda i, row: i % 2 == 0, lambda row: answer(row, "Title: hat, Category: BAGS, Price: 5"))
    for name, rows in (("a", right), ("b", wrong)):
        for row in rows:
            row["top_k"] = [[[token, -0.01], [token + 1, -5.0]] for token in row["token_ids"]]
        write_run(folder / name, rows, label=name)
    _run_commands(folder, 1)
    (folder / "out" / "baseline.jsonl").rename(folder / "baseline.jsonl")
    shutil.rmtree(folder / "out")


def _run_commands(folder: Path, variant: int) -> object:
    from eval import score
    from eval.compare import __main__ as compare

    (folder / "out").mkdir(exist_ok=True)
    few, out = ["--resamples", "2"], folder / "out"
    match variant % 4:
        case 0:
            return compare.main([str(folder / "a"), str(folder / "b"), "--html", str(out / "r.html"), *few])
        case 1:
            written = ["--output", str(out / "run"), "--csv", str(out / "run.csv"), "--baseline", str(out / "baseline.jsonl")]
            return score.main([str(folder / "a"), *written, *few])
        case 2:
            return compare.main([str(folder / "b"), "--baseline", str(folder / "baseline.jsonl"), "--json", *few])
        case _:
            return compare.main([str(folder / "a"), str(folder / "b"), str(folder / "a"), *few])


TARGETS = {
    "configs": Target(
        _checkpoint,
        {"model/config.json": "json", "model/preprocessor_config.json": "json", "model/model.safetensors.index.json": "json"},
        _open_checkpoint,
    ),
    "weights": Target(_checkpoint, dict.fromkeys([f"model/{name}" for name in _SHARDS], "safetensors"), _load_weights),
    "tokenizer": Target(_tokenizer, {"model/tokenizer.json": "json"}, _ask),
    "adapter": Target(
        _adapter, {"adapter/adapter_config.json": "json", "adapter/adapter_model.safetensors": "safetensors"}, _load_adapter
    ),
    "photos": Target(_photos, dict.fromkeys(PHOTOS, "bytes"), _look),
    "tables": Target(
        _tables,
        {
            name: {".jsonl": "lines", ".json": "json", ".csv": "text", ".tsv": "text"}.get(Path(name).suffix, "bytes")
            for name in _SOURCES
        },
        _ingest,
        may_read=("secret.png",),  # the photos of a user's own table may be anywhere
    ),
    "settings": Target(_yaml, dict.fromkeys(_YAMLS, "text"), _read_settings),
    "catalogue": Target(
        _catalogue,
        {"cat/catalogue.json": "json", "cat/train-00000.arrow": "bytes", "cat/validation-00000.arrow": "bytes"},
        _read_catalogue,
    ),
    "runs": Target(
        _runs,
        {"a/manifest.json": "json", "a/predictions.jsonl": "lines", "b/predictions.jsonl": "lines", "baseline.jsonl": "lines"},
        _run_commands,
    ),
}
