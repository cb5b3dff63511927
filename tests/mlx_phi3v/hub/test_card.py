"""The model card: every figure in it is one of a file's, and text from outside is only text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.files import read_json, sha256_file, write_json
from mlx_phi3v.hub import facts
from mlx_phi3v.hub.card import card, is_ours, written_beside
from mlx_phi3v.hub.contents import contents_of
from mlx_phi3v.hub.facts import Point, base_of, thinned
from mlx_phi3v.hub.markdown import block, table, text
from tests.helpers.hub import TOKEN
from tests.helpers.paths import ROOT

RECORDED = ROOT / "tests" / "recorded"
EVIL = "</td><script>alert(1)</script> | [x](javascript:y) `z` *b* _c_ www.evil.example http://e @me ![p](q)"
EVIL += "\n# T\n---\n- k: v\x1b[2J"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The best adapter of a finished training."""
    shutil.copytree(RECORDED / "training-mlx", tmp_path / "run", symlinks=True)
    return tmp_path / "run" / "best"


def change(path: Path, **values: Any) -> None:
    write_json(path, read_json(path, "test") | values)


def head_of(readme: str) -> dict[str, Any]:
    data: Any = ModelCard(readme).data
    return dict(data.to_dict())


def test_an_adapters_card_holds_the_facts_of_its_training(adapter: Path) -> None:
    change(adapter / "adapter_config.json", base_model_name_or_path="microsoft/Phi-3-vision-128k-instruct")
    readme = card(adapter, "adapter", "somebody/mine", "mit")
    state = read_json(adapter / "state.json", "test")
    data = read_json(RECORDED / "shop" / "catalogue.json", "test")
    head = head_of(readme)
    assert head["base_model"] == "microsoft/Phi-3-vision-128k-instruct" and head["base_model_relation"] == "adapter"
    assert head["license"] == "mit" and head["library_name"] == "peft" and head["pipeline_tag"] == "image-text-to-text"
    assert "datasets" not in head and "model-index" not in head  # of no data set of the hub, and nothing was compared
    for fact in (state["base_fingerprint"], data["fingerprint"], sha256_file(adapter / "adapter_model.safetensors")):
        assert f"`{fact}`" in readme
    assert "| rows, train | 16 |" in readme and "| `learning_rate` | 0.01 |" in readme and "| rank | 2 |" in readme
    assert "0.2385 at step 4" in readme and "| 4 | 0.05493 | 0.2385 |" in readme
    assert "mlx_phi3v.generate --model microsoft/Phi-3-vision-128k-instruct --adapter somebody/mine" in readme
    assert 'PeftModel.from_pretrained(base, "somebody/mine")' in readme
    assert str(ROOT) not in readme and "tests/recorded" not in readme


def test_what_no_file_says_is_left_out_or_unknown(tmp_path: Path, adapter: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, bare / name)
    change(bare / "adapter_config.json", base_model_name_or_path=None)
    readme = card(bare, "adapter")
    assert "| base model | unknown |" in readme and "Unknown: no file of the folder says it." in readme
    assert "How it was trained" not in readme and "trained on" not in readme
    assert not {"license", "base_model"} & set(head_of(readme))
    change(adapter / "state.json", data_fingerprint="f" * 64)  # the catalogue that is there now is another one
    assert "rows, train" not in card(adapter, "adapter")


def test_a_folder_that_may_be_anything_is_no_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert base_of("models/mine") is None and base_of("/home/me/phi3v") is None and base_of("tiny") is None
    assert base_of("microsoft/Phi-3.5-vision-instruct") == "microsoft/Phi-3.5-vision-instruct"
    (tmp_path / "models--models--mine").mkdir()
    assert base_of("models/mine") == "models/mine"
    write_json(tmp_path / "conversion.json", {"source": "microsoft/Phi-3-vision-128k-instruct"})
    assert base_of(str(tmp_path)) == "microsoft/Phi-3-vision-128k-instruct"
    write_json(tmp_path / "conversion.json", {"source": str(tmp_path)})  # of itself
    assert base_of(str(tmp_path)) is None


def test_a_receipt_is_shown_with_its_intervals(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"quantization": {"bits": 4, "group_size": 64}})
    write_json(tmp_path / "conversion.json", {"source": "microsoft/Phi-3-vision-128k-instruct", "source_fingerprint": "ab"})
    measure = {
        "name": "price_error",
        "before": 0.125,
        "after": 0.25,
        "difference": 0.125,
        "low": 0.01,
        "high": 0.24,
        "margin": 0.05,
    }
    plain = {"name": "exact", "before": None, "after": 0.5, "difference": None}
    receipt = {"verdict": "WORSE", "rows": 32, "measures": [measure, plain], "gap_nats": 3e-6, "before": EVIL, "after": "b",
               "made": "2026-11-26", "versions": {}, "catalogue": "shop", "split": "validation"}  # fmt: skip
    write_json(tmp_path / "receipt.json", receipt)
    readme = card(tmp_path, "model", "somebody/mine")
    assert "**WORSE**: compared on 32 held-out rows of shop on 2026-11-26." in readme
    assert "| price_error | 0.125 | 0.25 | 0.125 | 0.01 to 0.24 | 0.05 |" in readme
    assert "| exact | – | 0.5 | – | – | – |" in readme and "3e-06 nats" in readme
    head = head_of(readme)
    assert head["base_model_relation"] == "quantized"
    results = head["model-index"][0]["results"][0]
    assert [item["value"] for item in results["metrics"]] == [0.25, 0.5] and results["dataset"]["name"] == "shop"


def test_how_to_check_a_copy_is_said_once_and_only_where_there_is_a_probe(tmp_path: Path) -> None:
    convert(ConvertConfig("tiny", tmp_path / "model"))
    assert "--verify" not in card(tmp_path / "model", "model")
    (tmp_path / "model" / "probe.json").write_text("{}")
    assert card(tmp_path / "model", "model").count("--verify") == 1


def test_text_from_outside_is_only_text(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(adapter / "adapter_config.json", base_model_name_or_path=EVIL, target_modules=[EVIL, "qkv_proj"])
    change(adapter / "state.json", base_fingerprint="`</code>`")
    fields = [{"name": "a", "kind": "text"}, {"name": "b", "kind": "number", "currency": "|x|"}]
    task = {"prompt": "~~~\n# x <b>", "template": f"T: {{a}}, {EVIL[:20]}: {{b}}", "fields": fields}
    write_json(adapter / "task.json", {"task": task, "num_crops": 4, "dtype": "float32"})
    readme = card(adapter, "adapter", "somebody/mine", EVIL)
    head = yaml.safe_load(readme.split("---\n")[1])
    assert head["license"] == EVIL and set(head) == {"license", "library_name", "pipeline_tag", "tags"}
    body = readme.split("---\n", 2)[2]
    outside_code, fenced = [], None
    for line in body.splitlines():  # what is in a fence of code is shown as it is
        if line.startswith(("~~~", "```")) and (fenced is None or line.strip() == fenced):
            fenced = None if fenced else line.rstrip("abcdefghijklmnopqrstuvwxyz")
        elif fenced is None:
            outside_code.append(line)
    shown = "\n".join(outside_code)
    assert "<script" not in shown and "](" not in shown and "<b>" not in shown and "\x1b" not in readme
    assert "\n# T" not in readme and "www.evil" not in shown and "http://e" not in shown
    assert "# x <b>" not in shown and "~~~~text" in readme


def test_the_pieces_of_markdown() -> None:
    assert text("a_b") == "a_b" and text("_b_") == "&#95;b&#95;" and text("x" * 400).endswith("...")
    assert text(f"my {TOKEN}") == "my &#91;hidden&#93;"
    assert block("a\n~~~~\nb")[0] == "~~~~~text"
    assert table(["a"], [["1"]]) == ["| a |", "|---|", "| 1 |", ""]
    points = [Point(i, 1.0, 0.5 if i % 100 == 0 else None) for i in range(1, 1001)]
    few = thinned(points, 12)
    assert few[0].step == 1 and few[-1].step == 1000 and 8 <= len(few) <= 14 and sum(p.val_loss is not None for p in few) >= 4
    assert thinned(points[:12], 12) == points[:12]


def test_a_readme_of_the_users_own_is_kept(adapter: Path, tmp_path: Path) -> None:
    first = written_beside(contents_of(adapter), "somebody/mine")
    assert set(first) == {"README.md", "training.json"} and is_ours(first["README.md"])
    (adapter / "README.md").write_text(first["README.md"])
    assert "README.md" in written_beside(contents_of(adapter), "somebody/mine")
    (adapter / "README.md").write_text(first["README.md"].replace("rank", "Rank"))
    assert not is_ours((adapter / "README.md").read_text())
    assert set(written_beside(contents_of(adapter), "somebody/mine")) == {"training.json"}
    assert is_ours("# Phi-3-Vision for MLX\n\nWritten by mlx-phi3v 0.1.0; `conversion.json`")


def test_what_is_known_of_a_training_travels_without_its_paths(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    facts.carry_training(adapter, tmp_path / "fused")
    carried = facts.training_of(tmp_path / "fused")
    assert carried == facts.training_of(adapter) and carried is not None and len(carried.curve) == 7
    raw = json.loads((tmp_path / "fused" / "training.json").read_text())
    assert "tests/recorded" not in json.dumps(raw) and raw["data"]["name"] == "shop"


def test_the_published_layout_keeps_what_its_writer_says(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    for name in ("modeling_phi3_v.py", "configuration_phi3_v.py", "processing_phi3_v.py"):
        (source / name).write_text("# code\n")
    convert(ConvertConfig(str(source), tmp_path / "out", to_hf=True))
    local = (tmp_path / "out" / "README.md").read_text()
    written = written_beside(contents_of(tmp_path / "out"), "somebody/mine")["README.md"]
    for readme, name in ((local, "FOLDER"), (written, "somebody/mine")):
        assert is_ours(readme) and head_of(readme)["library_name"] == "transformers"
        assert f'from_pretrained("{name}", trust_remote_code=True' in readme
        for path in (tmp_path / "out").glob("*.py"):
            assert f"{sha256_file(path)}  {path.name}" in readme
        assert str(tmp_path) not in readme and "copied from the folder source of the weights" in readme
        assert readme.count("## This folder holds code") == 1 and "does not open this form" not in readme
    assert {"modeling_phi3_v.py", "processing_phi3_v.py"} <= set(contents_of(tmp_path / "out").files)
