"""One dataclass gives flags, YAML keys and help; every mistake is named; other tools' flags are read or answered."""

from __future__ import annotations

import dataclasses
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
from mlx_phi3v import commands
from mlx_phi3v.aliases import ALIASES, REFUSALS, aliases, refusals
from mlx_phi3v.cli import build, option, own_keys, parse, read_yaml
from mlx_phi3v.convert import ConvertConfig
from mlx_phi3v.doctor.__main__ import DoctorConfig
from mlx_phi3v.errors import UserError
from mlx_phi3v.export import ExportConfig
from mlx_phi3v.fuse import FuseConfig
from mlx_phi3v.generate import GenerateConfig
from mlx_phi3v.plan import PlanConfig
from mlx_phi3v.serve.settings import ServeConfig
from mlx_phi3v.training.train_config import TrainConfig
from mlx_phi3v.upload import UploadConfig
from tests.helpers.paths import ROOT


@dataclass(frozen=True)
class Example:
    data: Path = option(help="where")
    rate: float = option(1e-4, help="how fast")
    max_steps: int | None = option(None, help="how long", flags=("-n",))
    kind: str = option("mlx", help="which", choices=("mlx", "torch"))
    names: tuple[str, ...] = option((), help="several")
    quiet: bool = option(False, help="say less")


def read(*argv: str, yaml: str | None = None, folder: Path | None = None) -> Example:
    flags = list(argv)
    if yaml is not None:
        assert folder is not None
        (folder / "run.yaml").write_text(yaml)
        flags += ["--config", str(folder / "run.yaml")]
    return parse(Example, "prog", "What it does.", flags)


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    settings = read("--rate", "3", yaml="data: x\nrate: 2e-4\nmax-steps: 5\nnames: [a, b]\nquiet: true", folder=tmp_path)
    assert settings == Example(Path("x"), 3.0, 5, "mlx", ("a", "b"), True)
    assert read("--data", "x", "--no-quiet", "-n", "7", yaml="quiet: true", folder=tmp_path) == Example(Path("x"), max_steps=7)


def test_both_spellings_of_a_flag_are_read() -> None:
    assert read("--data", "x", "--max_steps", "2").max_steps == read("--data", "x", "--max-steps", "2").max_steps == 2


def test_a_number_as_yaml_reads_it_is_a_number(tmp_path: Path) -> None:
    assert read("--data", "x", yaml="rate: 1e-4", folder=tmp_path).rate == 1e-4  # text to YAML 1.1
    assert read("--data", "x", yaml="rate: 1", folder=tmp_path).rate == 1.0


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("rat: 1", "unknown key 'rat' in --config .*; did you mean 'rate'"),
        ("wholly_other: 1", "unknown key 'wholly_other' .* known keys: data, kind"),
        ("rate: fast", "rate in --config .* is 'fast'; it must be a number"),
        ("max_steps: 1.5", "max_steps .* must be a whole number"),
        ("max_steps: true", "max_steps .* must be a whole number"),
        ("quiet: 3", "quiet .* must be true or false"),
        ("kind: cuda", "kind .* is 'cuda'; choose one of mlx, torch"),
        ("rate:", "rate .* is empty"),
        ("- a\n- b", "must hold keys and values, not a list"),
        ("a: [", "not valid YAML"),
        ("kind: {a: 1}", "kind .* must be text"),
        ("names: [[a]]", "names .* must be text"),
    ],
)
def test_a_mistake_in_the_yaml_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read("--data", "x", yaml=yaml, folder=tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_setting_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data is required"):
        read()
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        parse(Example, "prog", "", ["--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--rate", "fast"], "--rate"), (["--kind", "cuda"], "mlx"), (["--rat3", "1"], "--rat3"), (["--rate"], "--rate")],
)
def test_a_wrong_flag_is_named_in_one_line(flags: list[str], named: str) -> None:
    with pytest.raises(UserError) as error:
        read("--data", "x", *flags)
    assert named in str(error.value) and "\n" not in str(error.value) and "--help" in str(error.value)


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(
        word in text for word in ("--data", "(required)", "--max-steps", "0.0001", "{mlx,torch}", "--no-quiet", "--config")
    )


def test_built_settings_are_checked_like_read_ones() -> None:
    assert build(Example, {"data": "x"}, "a test").data == Path("x")
    with pytest.raises(UserError, match="unknown key 'datum' in a test"):
        build(Example, {"datum": "x"}, "a test")


def test_off_in_yaml_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("vision: off\nlanguage: on\njson: true\nresume: False\n")
    assert read_yaml(tmp_path / "run.yaml") == {"vision": "off", "language": "on", "json": True, "resume": False}


CONFIGS: dict[str, type] = {
    "compare": CompareConfig, "convert": ConvertConfig, "demo": DemoConfig, "describe": DescribeConfig, "fuse": FuseConfig,
    "doctor": DoctorConfig, "export": ExportConfig, "export_data": ExportDataConfig,
    "generate": GenerateConfig, "import": ImportConfig, "ingest": IngestConfig, "merge": MergeConfig, "parity": ParityConfig,
    "plan": PlanConfig, "plan_eval": EvalPlanConfig,
    "predict": PredictConfig, "receipt": ReceiptConfig, "sample": SampleConfig, "score": ScoreConfig, "serve": ServeConfig,
    "train": TrainConfig, "train_seeds": SeedsConfig, "upload": UploadConfig,
}  # fmt: skip


def field_names(command: str) -> set[str]:
    return {field.name for field in dataclasses.fields(CONFIGS[command])}


def read_as(command: str, *argv: str) -> Any:
    return parse(CONFIGS[command], f"python -m mlx_phi3v.{command}", "", argv)


# As users of mlx-lm, of mlx-vlm, and of transformers with TRL and peft type them.
TYPED = {
    "train --model M --data D --iters 3 --adapter-path A --max-seq-length 512 --grad-accumulation-steps 2 --batch-size 1 "
    "--steps-per-eval 5 --grad-checkpoint": dict(
        max_steps=3, output=Path("A"), max_length=512, grad_accumulation_steps=2, steps_per_eval=5, grad_checkpoint=True
    ),
    "train --model-path M --data D --output-path A --lora-rank 4 --lora-alpha 8 --lora-dropout 0.1 --steps-per-save 7": dict(
        model="M", output=Path("A"), r=4, lora_alpha=8.0, lora_dropout=0.1, save_every=7
    ),
    "train --model_name_or_path M --data D --output_dir A --num_train_epochs 2 --per_device_train_batch_size 3 "
    "--gradient_accumulation_steps 4 --lr_scheduler_type cosine --warmup_steps 5 --logging_steps 6 --eval_steps 7 "
    "--save_steps 8 --gradient_checkpointing True --lora_r 9 --adam_epsilon 1e-8": dict(
        model="M", output=Path("A"), epochs=2.0, batch_size=3, grad_accumulation_steps=4, lr_schedule="cosine",
        warmup_steps=5, steps_per_report=6, steps_per_eval=7, save_every=8, grad_checkpoint=True, r=9, adam_eps=1e-8,
    ),
    "generate --image a.jpg -p P -m 5 --temp 0.5 --top-p 0.9 --seed 1 --adapter-path A": dict(
        prompt="P", max_new_tokens=5, temperature=0.5, top_p=0.9, seed=1, adapter="A"
    ),
    "predict --data D --output-dir O --adapter-path A --max-tokens 5 --temp 0.5 --top-p 0.9 --seed 1": dict(
        output=Path("O"), adapter="A", max_new_tokens=5, temperature=0.5, top_p=0.9, seed=1
    ),
    "convert --model M --mlx-path O -q --q-bits 8 --q-group-size 32": dict(
        hf_path="M", mlx_path=Path("O"), quantize=True, q_bits=8, q_group_size=32
    ),
    "convert --hf-path M --upload-repo me/mine": dict(upload_repo="me/mine", public=False),
    "fuse --model M --adapter-path A --save-path O -d": dict(adapter="A", save_path=Path("O"), dequantize=True),
}  # fmt: skip


@pytest.mark.parametrize("line", TYPED)
def test_the_flags_of_other_tools_are_read(line: str) -> None:
    command, *argv = line.split()
    settings = read_as(command, *argv)
    assert {name: getattr(settings, name) for name in TYPED[line]} == TYPED[line]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("train --train --data D", "--train is not needed"),
        ("train --num-layers -1", "--language, --vision"),
        ("train --fine-tune-type full --mask-prompt", "--projector full"),
        ("train --fine-tune-type full --mask-prompt", "--mask-prompt is always on"),
        ("train --bf16 True", "--dtype bfloat16"),
        ("train --train-vision", "--vision"),
        ("train --image_resize_shape 336 336", "--num-crops"),
        ("train --data D --push-to-hub", "--upload-repo OWNER/NAME"),
        ("fuse --private", "private without --public"),
        ("generate --top-k 5", "--top-p"),
    ],
)
def test_a_flag_without_meaning_is_answered_with_the_one_that_has(line: str, answer: str) -> None:
    command, *argv = line.split()
    with pytest.raises(UserError) as error:
        read_as(command, *argv)
    assert answer in str(error.value) and "\n" not in str(error.value)


def test_yaml_takes_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data: D\nadapter_path: A\niters: 3\nmax-seq-length: 512\nlr_scheduler_type: cosine\n")
    settings = read_as("train", "-c", str(tmp_path / "run.yaml"), "--iters", "4")
    assert settings == TrainConfig(Path("D"), Path("A"), max_steps=4, max_length=512, lr_schedule="cosine")
    (tmp_path / "run.yaml").write_text("data: D\noutput: A\niters: 3\nmax_steps: 4\n")
    with pytest.raises(UserError, match=r"'iters' and 'max_steps' in --config .* are the same setting"):
        read_as("train", "-c", str(tmp_path / "run.yaml"))
    (tmp_path / "run.yaml").write_text("train: true\nlora_parameters:\n  rank: 8\n  scale: 20\n")
    with pytest.raises(UserError, match=r"run\.yaml: --train is not needed.*lora_alpha is mlx-lm's scale times its rank"):
        read_as("train", "-c", str(tmp_path / "run.yaml"))
    assert own_keys({"iters": 1, "save-steps": 2}, TrainConfig, "train", "x") == {"max_steps": 1, "save_every": 2}


def test_every_alias_means_a_field_of_its_commands() -> None:
    for alias in ALIASES:
        named = alias.commands or [command for command in CONFIGS if alias.field in field_names(command)]
        assert named, alias
        for command in named:
            assert alias.field in field_names(command), (alias, command)
            for name in alias.names:
                assert aliases(command, field_names(command))[name] == alias.field, (alias, command, "is shadowed")


def test_no_refused_name_is_a_field_or_an_alias() -> None:
    for refusal in REFUSALS:
        for command in refusal.commands:
            known = field_names(command) | aliases(command, field_names(command)).keys()
            assert not known & set(refusal.names), (refusal, command)
            assert set(refusal.names) <= refusals(command, field_names(command)).keys()


def test_a_refusal_names_flags_that_exist() -> None:
    import re

    known = {"--" + name.replace("_", "-") for command in CONFIGS for name in field_names(command)} | {"--revision"}
    for refusal in REFUSALS:
        assert set(re.findall(r"--[a-z][\w-]+", refusal.answer)) <= known, refusal


def test_the_page_of_flags_is_the_table() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_flags.py"))
    assert script["PAGE"].read_text() == script["page"](), "run python scripts/write_flags.py"


@dataclass(frozen=True)
class Several:
    runs: tuple[Path, ...] = option(help="the runs", positional=True, metavar="RUN")
    output: Path = option(help="where", heading="Output")
    names: tuple[str, ...] = option((), help="several")
    quiet: bool = option(False, help="say less", heading="Talk")


def read_several(*argv: str) -> Several:
    return parse(Several, "python -m eval.several", "", argv)


def test_plain_arguments_may_be_several_and_come_between_flags() -> None:
    assert read_several("a", "b", "--output", "o").runs == (Path("a"), Path("b"))
    assert read_several("a", "--output", "o", "b", "--quiet", "c").runs == (Path("a"), Path("b"), Path("c"))
    with pytest.raises(UserError, match="RUN is required: the runs"):
        read_several("--output", "o")


def test_help_begins_with_the_usage_and_groups_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_several("--help")
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m eval.several RUN ... --output PATH [flags]\n")
    assert -1 < text.index("\nOutput:") < text.index("--output PATH  ") < text.index("\nTalk:") < text.index("--quiet")


def test_help_names_the_aliases_of_a_flag_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_as("train", "--help")
    text = capsys.readouterr().out
    assert text.count("--iters") == 1 and "--max_steps" not in text and "--num-layers" not in text


def test_a_command_goes_by_the_name_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "python -m data.ingest x; python -m eval --json; python -m eval.import_run y"
    monkeypatch.setattr("sys.argv", ["/bin/mlx_phi3v.ingest"])
    assert commands.installed() and commands.as_typed(text, "mlx_phi3v.train") == text
    assert commands.as_typed(text, "mlx_phi3v.ingest") == "mlx_phi3v.ingest x; mlx_phi3v.demo --json; mlx_phi3v.import y"
    monkeypatch.setattr("sys.argv", ["/site/data/ingest/__main__.py"])
    assert not commands.installed() and commands.as_typed(text, "mlx_phi3v.ingest") == text


def test_a_flag_of_several_values_may_be_given_several_times() -> None:
    @dataclass(frozen=True)
    class Several:
        field: tuple[str, ...] = option((), help="fields")

    for flags in (["--field", "a", "b"], ["--field", "a", "--field", "b"], ["--field=a", "--field=b"]):
        assert parse(Several, "several", "", flags).field == ("a", "b")
