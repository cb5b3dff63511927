"""Small sound files of each kind, which are then mutated. Imports come late: a target's process needs few of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.checkpoint import Shape, write_checkpoint

SMALL = Shape(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, vision_hidden=8, vision_layers=2, patch=14, shards=2)


def checkpoint(folder: Path) -> None:
    """A small checkpoint, in two shards with an index."""
    write_checkpoint(folder / "model", SMALL)


def tokenizer(folder: Path) -> None:
    """A tokenizer of few letters: most mutations of a whole vocabulary would only change a word."""
    checkpoint(folder)
    path = folder / "model" / "tokenizer.json"
    whole = json.loads(path.read_text())
    model, words = whole["model"], {item["content"] for item in whole["added_tokens"]}
    merges = [pair for pair in model["merges"] if len("".join(pair)) == 2][:8]
    letters = {word for word in model["vocab"] if len(word) == 1 or word.startswith("<0x4")}
    known = words | letters | {"".join(pair) for pair in merges}
    model |= {"merges": merges, "vocab": {word: number for word, number in model["vocab"].items() if word in known}}
    path.write_text(json.dumps(whole))
    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))


def adapter(folder: Path) -> None:
    """A checkpoint and an adapter of it."""
    from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.config import load_model_config

    checkpoint(folder)
    args = AdapterArgs(r=2, base_model_name_or_path="base")
    tensors = init_adapter(load_model_config(folder / "model"), args, 0)
    save_adapter(folder / "adapter", args, tensors, base_fingerprint(folder / "model"))


def mlx_adapter(folder: Path) -> None:
    """A checkpoint and an adapter of it, as mlx-vlm writes one."""
    from mlx_phi3v.export import ExportConfig, export

    adapter(folder)
    (folder / "adapter").rename(folder / "peft")
    export(ExportConfig(str(folder / "peft"), folder / "adapter", str(folder / "model")))


def report(folder: Path) -> None:
    """The record of a training that was reported."""
    from mlx_phi3v.loggers.record import Record, Reported

    folder.mkdir(parents=True, exist_ok=True)
    Record("abcd1234", {"wandb": Reported("shop", "first", 40, 20), "trackio": Reported("shop", "first")}).save(folder)


def _image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos(folder: Path) -> None:
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


_COLUMNS = ("title", "price", "kind", "image", "code")
_ROWS = [
    ("Wool hat", "1,299.00 EUR", "HATS", "photo.png", "0012"),
    ("Coat; long", "12", "COATS", "", "x"),
    ("Schal", "7.5", "SCARVES", "../outside/secret.png", ""),
    ("Bag", "", "BAGS", "photo.png", "9"),
]


def tables(folder: Path) -> None:
    """A table of every kind, and the photos that they name."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import Dataset

    records = [dict(zip(_COLUMNS, row)) for row in _ROWS]
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([_COLUMNS, *_ROWS])
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "t.json").write_text(json.dumps(records))
    (folder / "columns.json").write_text(
        json.dumps({name: [record[name] for record in records] for name in _COLUMNS}, indent=1)
    )
    html = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in [_COLUMNS, *_ROWS])
    (folder / "page.xls").write_text(f"<html><body><table>{html}</table></body></html>")
    cells = [[f'<Cell><Data ss:Type="String">{cell}</Data></Cell>' for cell in row] for row in [_COLUMNS, *_ROWS]]
    (folder / "sheet.xls").write_text(
        '<?xml version="1.0"?><Workbook xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet" '
        'xmlns="urn:schemas-microsoft-com:office:spreadsheet"><Worksheet ss:Name="A"><Table>'
        + "".join(f"<Row>{''.join(row)}</Row>" for row in cells)
        + "</Table></Worksheet></Workbook>"
    )
    offers = "".join(
        f"<offer>{''.join(f'<{name}>{value}</{name}>' for name, value in record.items())}<categoryId>2</categoryId></offer>"
        for record in records
    )
    categories = '<category id="1">A</category><category id="2" parentId="1">B</category>'
    (folder / "feed.xml").write_text(
        f"<yml_catalog><shop><categories>{categories}</categories><offers>{offers}</offers></shop></yml_catalog>"
    )
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a hat"}]
    chat = {"messages": turns, "images": ["photo.png"]}
    (folder / "chat.jsonl").write_text((json.dumps(chat) + "\n") * 2)
    table = pa.Table.from_pylist([record | {"price": i + 0.5, "at": i} for i, record in enumerate(records)])
    table = table.set_column(table.schema.get_field_index("at"), "at", table["at"].cast(pa.timestamp("s")))
    parquet.write_table(table, folder / "t.parquet")
    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))
    Dataset.from_list(records).save_to_disk(str(folder / "saved"))
    shutil.copy(folder / "photo.png", folder / "saved" / "photo.png")


def settings(folder: Path) -> None:
    """Settings of every command."""
    (folder / "train.yaml").write_text(
        "data: cat\noutput: out\nlearning_rate: 1e-4\nepochs: 2\nr: 8\nseed: 3\nval_rows: 10\nadam_betas: [0.9, 0.999]\n"
        "projector: lora\nlora_dropout: .05\nmax_length: 2048\n"
    )
    (folder / "ingest.yaml").write_text(
        "source: t.csv\noutput: out\nfields:\n  title: {column: name, kind: text, required: true}\n"
        '  price: {column: p, kind: number, currency: EUR, decimal: ","}\nimage: {columns: [a, b]}\n'
        "template: 'T: {title}, P: {price}'\nprompt: What is it?\nallow_hosts: [\"a:443\"]\nvalidation: 0.2\n"
    )
    (folder / "predict.yaml").write_text(
        "data: cat\noutput: out\nmodel: m\nlimit: 5\ntemperature: 0.0\nshard: 1/2\nlabel: mine\n"
    )
    (folder / "other.yaml").write_text(
        "seed: 1\nresamples: 10\nproducts: 200\ntest: 20\nbackends: [mlx, torch]\nmargin_category: 2.0\nallow: [decoding]\n"
        "runs: [a, b]\nnum_crops: 4\nsample: 100\nimage: [x.png]\ntop_p: .9\nq_bits: 4\noutput: o\nmodel: tiny\n"
        "adapter: a\nhost: 127.0.0.1\nport: 8080\nkv_bits: 8\nprefix_cache_gb: 0.5\nallow_host: [a]\ncatalogue: cat\n"
        "folder: f\nrepo: a/b\nshard_mb: 100\nlicense: mit\nafter: m\n"
    )


def catalogue(folder: Path) -> None:
    """A catalogue of two splits."""
    from tests.helpers.catalogue import write_catalogue

    write_catalogue(folder / "cat", {"train": 3, "validation": 2}, (((40, 30),), ((30, 40), (20, 20)), ()))


def exported_catalogue(folder: Path) -> None:
    """A catalogue as Parquet with its photos inside."""
    from data.export.write_export import write_export
    from mlx_phi3v.catalogue import Catalogue

    catalogue(folder)
    write_export(Catalogue(folder / "cat"), folder / "export")


def described_model(folder: Path) -> None:
    """What a model card is written from."""
    (folder / "model").mkdir()
    texts = {
        "config.json": {"model_type": "phi3_v", "quantization": {"bits": 4, "group_size": 64}},
        "conversion.json": {"source": "a/b", "source_fingerprint": "ab", "source_sha256": {"m.safetensors": "cd"},
                            "adapter": "runs/mine", "adapter_sha256": "ef", "adapter_scale": 2.0, "settings": {"dtype": None}},
        "task.json": {"task": {"prompt": "<|user|>", "template": "T: {a}", "fields": [{"name": "a", "kind": "text"}]},
                      "num_crops": 4, "dtype": "float32"},
        "training.json": {"step": 4, "base_fingerprint": "ab",
                          "data": {"name": "shop", "fingerprint": "cd", "rows": {"train": 3}},
                          "settings": {"seed": 1, "adam_betas": [0.9, 0.95]}, "best_step": 2, "best_loss": 0.5,
                          "curve": [{"step": 2, "loss": 1.5, "val_loss": 0.5}, {"step": 4, "loss": 0.5}]},
        "receipt.json": {"verdict": "SAME", "rows": 4, "gap_nats": 1e-6, "before": "a", "after": "b", "made": "2026-11-26",
                         "versions": {}, "measures": [{"name": "m", "before": 1, "after": 1, "difference": 0, "margin": 0.1}]},
    }  # fmt: skip
    for name, value in texts.items():
        (folder / "model" / name).write_text(json.dumps(value))


def runs(folder: Path) -> None:
    """Two runs of the same rows, a baseline of one, and its answers traced by the other."""
    from eval import score
    from tests.helpers.synthetic_runs import answer, changed, digest, make_rows, write_run

    (folder / "photo.png").write_bytes(_encoded(_image(40, 30), "PNG"))
    right = make_rows(4, right=1.0, image=str(folder / "photo.png"))
    wrong = changed(right, lambda i, row: i % 2 == 0, lambda row: answer(row, "Title: hat, Category: BAGS, Price: 5"))
    for seed, (name, rows) in enumerate((("a", right), ("b", wrong))):
        for i, row in enumerate(rows):
            row["top_k"] = [[[token, -0.01], [token + 1, -5.0]] for token in row["token_ids"]]
            row["product"] = f"product {i // 2}"
        training = {"seed": seed, "learning_rate": 0.1}
        write_run(folder / name, rows, label=name, hashes={"adapter": digest(name)}, training=training)
    traced = [{key: row[key] for key in ("id", "token_ids", "logprobs")} for row in right]
    (folder / "b" / "trace-a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in traced))
    score.main([str(folder / "a"), "--baseline", str(folder / "baseline.jsonl"), "--resamples", "2"])


def predictions(folder: Path) -> None:
    """A catalogue, and answers for it as several tools write them."""
    import pyarrow as pa
    import pyarrow.parquet

    from mlx_phi3v.catalogue import Catalogue, iterate

    catalogue(folder)
    rows = [(row["id"], f"Title: m\u00e4ntel, {row['id']}") for row in iterate(Catalogue(folder / "cat").split("train"))]
    (folder / "p.csv").write_text("id,answer\n" + "".join(f'{i},"{text}"\n' for i, text in rows))
    (folder / "p.tsv").write_text("id\tanswer\n" + "".join(f"{i}\t{text}\n" for i, text in rows))
    (folder / "semicolons.csv").write_text("sep=;\nid;answer\n" + "".join(f"{i};{text}\n" for i, text in rows), "utf-16")
    (folder / "old.csv").write_text("id;answer\n" + "".join(f'{i};"{text}"\n' for i, text in rows), "cp1252")
    (folder / "p.jsonl").write_text("".join(json.dumps({"id": i, "answer": text}) + "\n" for i, text in rows))
    ids, answers = zip(*rows)
    pyarrow.parquet.write_table(pa.table({"id": ids, "answer": answers}), folder / "p.parquet")


def harness_logs(folder: Path) -> None:
    """Logs of the harnesses that are read."""
    from tests.helpers import harness_logs as logs

    logs.write_lines(folder / "lm.jsonl", [logs.generated(0, True), logs.generated(1, False), logs.chosen(2, 1)])
    logs.write_lines(folder / "lmms.jsonl", [logs.multimodal(i, i > 0) for i in range(3)])
    samples = [logs.inspect_sample(i, "C", epoch=n) for i in (1, 2) for n in (1, 2)]
    logs.write_lines(folder / "inspect.json", [{**logs.inspect_header(2), "samples": samples}])
    logs.write_eval(folder / "inspect.eval", samples)
    logs.write_eval(folder / "zstd.eval", samples, method=93)
