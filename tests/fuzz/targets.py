"""What is fuzzed: small sound files of each kind, and the entry that a command reads them by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import sound
from tests.fuzz.sound import PHOTOS


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


_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


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


def _load_adapter(folder: Path, variant: int) -> object:
    from mlx_phi3v.adapters import load_adapter
    from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
    from mlx_phi3v.config import load_model_config

    return load_adapter(folder / "adapter", load_model_config(folder / "model"), base_fingerprint(folder / "model"))


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


_SOURCES = ("t.csv", "t.tsv", "t.jsonl", "t.json", "chat.jsonl", "t.parquet", "saved/data-00000-of-00001.arrow",
            "saved/state.json", "saved/dataset_info.json", "columns.json", "page.xls", "sheet.xls", "feed.xml")  # fmt: skip


def _ingest(folder: Path, variant: int) -> object:
    from data.ingest import main

    source = _SOURCES[variant % len(_SOURCES)].split("/")[0]
    fields = (
        [] if source == "chat.jsonl" else ["--field", "title=title", "price=price:number", "--code", "code", "--image", "image"]
    )
    return main([str(folder / source), "-o", str(folder / "out" / "c"), "--processes", "1", "--json", *fields])


def _configs() -> list[tuple[type, str]]:
    from data.describe.__main__ import DescribeConfig
    from data.export.__main__ import ExportDataConfig
    from data.ingest.ingest_config import IngestConfig
    from data.sample.draw_catalogue import SampleConfig
    from eval.compare.__main__ import CompareConfig
    from eval.demo.settings import DemoConfig
    from eval.import_run import ImportConfig
    from eval.merge import MergeConfig
    from eval.parity.__main__ import ParityConfig
    from eval.plan.__main__ import PlanConfig as EvalPlanConfig
    from eval.predict.settings import PredictConfig
    from eval.receipt.make_receipt import ReceiptConfig
    from eval.score import ScoreConfig
    from eval.train_seeds import SeedsConfig
    from mlx_phi3v.convert import ConvertConfig
    from mlx_phi3v.doctor.__main__ import DoctorConfig
    from mlx_phi3v.export import ExportConfig
    from mlx_phi3v.fuse import FuseConfig
    from mlx_phi3v.generate import GenerateConfig
    from mlx_phi3v.plan import PlanConfig
    from mlx_phi3v.serve.settings import ServeConfig
    from mlx_phi3v.training.train_config import TrainConfig
    from mlx_phi3v.upload import UploadConfig

    return [
        (TrainConfig, "mlx_phi3v.train"), (PlanConfig, "mlx_phi3v.plan"), (IngestConfig, "data.ingest"),
        (PredictConfig, "eval.predict"), (CompareConfig, "eval.compare"), (ScoreConfig, "eval.score"),
        (DescribeConfig, "data.describe"), (SampleConfig, "data.sample"), (DemoConfig, "eval"),
        (ImportConfig, "eval.import_run"), (MergeConfig, "eval.merge"), (ParityConfig, "eval.parity"),
        (EvalPlanConfig, "eval.plan"), (DoctorConfig, "mlx_phi3v.doctor"),
        (SeedsConfig, "eval.train_seeds"), (ReceiptConfig, "eval.receipt"), (ServeConfig, "mlx_phi3v.serve"),
        (ExportConfig, "mlx_phi3v.export"), (ExportDataConfig, "data.export"), (UploadConfig, "mlx_phi3v.upload"),
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


def _run_commands(folder: Path, variant: int) -> object:
    from eval import score
    from eval.compare import __main__ as compare

    (folder / "out").mkdir(exist_ok=True)
    few, out = ["--resamples", "2"], folder / "out"
    match variant % 6:
        case 0:
            return compare.main([str(folder / "a"), str(folder / "b"), "--html", str(out / "r.html"), *few])
        case 1:
            written = ["--output", str(out / "run"), "--csv", str(out / "run.csv"), "--baseline", str(out / "baseline.jsonl")]
            return score.main([str(folder / "a"), *written, *few])
        case 2:
            return compare.main([str(folder / "b"), "--baseline", str(folder / "baseline.jsonl"), "--json", *few])
        case 3:
            sides = [[f"--{name}", str(folder / "a"), str(folder / "b")] for name in "ab"]
            return compare.main([*sides[0], *sides[1], "--html", str(out / "r.html"), *few])
        case 4:
            allow = ["--allow", "truth", "task", "split", "limit", "shard", "template", "num_crops"]
            return compare.main([str(folder / "a"), str(folder / "b"), "--trace", "--json", *few, *allow])
        case _:
            return compare.main([str(folder / "a"), str(folder / "b"), str(folder / "a"), *few])


_PREDICTIONS = ("p.csv", "p.tsv", "p.jsonl", "semicolons.csv", "old.csv", "p.parquet")


def _import_table(folder: Path, variant: int) -> object:
    from eval import import_run

    name = _PREDICTIONS[variant % len(_PREDICTIONS)]
    flags = ["--input", str(folder / name), "--data", str(folder / "cat"), "--split", "train", "--text", "answer"]
    return import_run.main([*flags, "--output", str(folder / "out" / "run")])


_LOGS = ("lm.jsonl", "lmms.jsonl", "inspect.json", "inspect.eval", "zstd.eval")


def _import_log(folder: Path, variant: int) -> object:
    from eval import import_run

    name = _LOGS[variant % len(_LOGS)]
    return import_run.main(["--input", str(folder / name), "--output", str(folder / "out" / "run")])


_EXPORTED = ("export.json", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet")


def _restore(folder: Path, variant: int) -> object:
    from data.export.restore import exported_folder, restore

    found = exported_folder(str(folder / "export"))
    assert found is not None
    return restore(found, folder / "out" / "c", source="export", as_json=True)


_DESCRIBED = ("config.json", "conversion.json", "task.json", "training.json", "receipt.json")


def _write_card(folder: Path, variant: int) -> object:
    """The card's YAML must be read back by its own reader, and hold no line that is not its own."""
    from huggingface_hub import ModelCard

    from mlx_phi3v.hub.card import card

    readme = card(folder / "model", "model", "somebody/mine")
    assert "\x1b" not in readme and "<script" not in readme
    return ModelCard(readme).data.to_dict()  # type: ignore[no-untyped-call]


def _read_report(folder: Path, variant: int) -> object:
    from mlx_phi3v.loggers.record import read_record

    return read_record(folder)


TARGETS = {
    "configs": Target(
        sound.checkpoint,
        {"model/config.json": "json", "model/preprocessor_config.json": "json", "model/model.safetensors.index.json": "json"},
        _open_checkpoint,
    ),
    "weights": Target(sound.checkpoint, dict.fromkeys([f"model/{name}" for name in _SHARDS], "safetensors"), _load_weights),
    "tokenizer": Target(sound.tokenizer, {"model/tokenizer.json": "json"}, _ask),
    "adapter": Target(
        sound.adapter,
        {"adapter/adapter_config.json": "json", "adapter/adapter_model.safetensors": "safetensors"},
        _load_adapter,
    ),
    "adapter of mlx": Target(
        sound.mlx_adapter,
        {"adapter/adapter_config.json": "json", "adapter/adapters.safetensors": "safetensors"},
        _load_adapter,
    ),
    "photos": Target(sound.photos, dict.fromkeys(PHOTOS, "bytes"), _look),
    "tables": Target(
        sound.tables,
        {
            name: {".jsonl": "lines", ".json": "json"}.get(
                Path(name).suffix, "text" if Path(name).suffix in (".csv", ".tsv", ".xls", ".xml") else "bytes"
            )
            for name in _SOURCES
        },
        _ingest,
        # A photo of a user's own table may be anywhere; the last is named by the mutations, as a `file:` URL.
        may_read=("secret.png", "secret.json", "secret.safetensors", "/etc/hostname"),
    ),
    "settings": Target(sound.settings, dict.fromkeys(_YAMLS, "text"), _read_settings),
    "report": Target(sound.report, {"report.json": "json"}, _read_report),
    "catalogue": Target(
        sound.catalogue,
        {"cat/catalogue.json": "json", "cat/train-00000.arrow": "bytes", "cat/validation-00000.arrow": "bytes"},
        _read_catalogue,
    ),
    "runs": Target(
        sound.runs,
        {
            "a/manifest.json": "json",
            **dict.fromkeys(["a/predictions.jsonl", "b/predictions.jsonl", "b/trace-a.jsonl", "baseline.jsonl"], "lines"),
        },
        _run_commands,
    ),
    "imported tables": Target(
        sound.predictions,
        {name: {".jsonl": "lines", ".csv": "text", ".tsv": "text"}.get(Path(name).suffix, "bytes") for name in _PREDICTIONS},
        _import_table,
    ),
    "harness logs": Target(
        sound.harness_logs,
        {name: {".jsonl": "lines", ".json": "json"}.get(Path(name).suffix, "bytes") for name in _LOGS},
        _import_log,
    ),
    "exported catalogue": Target(
        sound.exported_catalogue,
        {f"export/{name}": "json" if name.endswith("json") else "bytes" for name in _EXPORTED},
        _restore,
    ),
    "model card": Target(sound.described_model, {f"model/{name}": "json" for name in _DESCRIBED}, _write_card),
}
