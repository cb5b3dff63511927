"""The commands against a stand-in of the hub: convert, train, fuse and export upload, and ids are downloaded for real."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_phi3v import convert, export, fuse, generate, train
from mlx_phi3v.adapters import load_adapter, resolve_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError, report_fault
from mlx_phi3v.files import read_json, sha256_file, write_json
from mlx_phi3v.hub.upload import Destination, upload
from tests.helpers import hub as hubs
from tests.helpers.hub import TOKEN, StandIn

pytest.importorskip("mlx.core")
SMALL = {"hidden": 16, "intermediate": 16, "layers": 1, "heads": 2, "kv_heads": 1, "vision_hidden": 8, "vision_layers": 2}


@pytest.fixture(scope="module")
def filled_hub(
    make_checkpoint: Callable[..., Path], small_catalogue: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A hub that convert, train, fuse and export have uploaded to, with what they wrote here and what they said."""
    folder = tmp_path_factory.mktemp("hub")
    model = make_checkpoint(**SMALL, patch=14)
    with hubs.stand_in() as server, pytest.MonkeyPatch.context() as patch:
        hubs.use(server, str(folder / "cache"), patch)
        said = []
        patch.setattr("mlx_phi3v.hub.upload.say", lambda text, *, as_json=False: said.append(text))
        made = ["--mlx-path", str(folder / "m"), "--no-probe", "--upload-repo", "somebody/m", "--public"]
        convert.main(["--hf-path", str(model), *made])
        flags = ["--model", str(folder / "m"), "--data", str(small_catalogue), "--output", str(folder / "run"), "--r", "2"]
        flags += ["--max-steps", "2", "--val-rows", "2", "--batch-size", "2", "--num-crops", "1", "--steps-per-report", "1"]
        train.main([*flags, "--upload-repo", "somebody/a"])
        pair = ["--model", str(folder / "m"), "--adapter", str(folder / "run")]
        made = ["--save-path", str(folder / "f"), "--no-probe", "--receipt", "0"]
        fuse.main([*pair, *made, "--upload-repo", "somebody/f"])
        export.main([*pair, "--output", str(folder / "x"), "--upload-repo", "somebody/x"])
        yield SimpleNamespace(server=server, folder=folder, said=said, model=model)


@pytest.fixture
def hub(filled_hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """That hub, for a process with an empty cache."""
    hubs.use(filled_hub.server, str(tmp_path / "cache"), monkeypatch)
    server: StandIn = filled_hub.server
    server.downloads.clear()
    return server


def test_each_command_uploads_what_it_wrote(filled_hub: SimpleNamespace) -> None:
    server, folder = filled_hub.server, filled_hub.folder
    for name in ("m", "f"):
        repo = server.model(f"somebody/{name}")
        for path in (path for path in (folder / name).iterdir() if path.name not in ("README.md", "conversion.json")):
            assert repo.files[path.name] == path.read_bytes()
        kept, sent = read_json(folder / name / "conversion.json", "test"), json.loads(repo.files["conversion.json"])
        assert sent == kept | {key: f".../{Path(kept[key]).name}" for key in ("source", "adapter") if key in kept}
        assert b"python -m mlx_vlm.generate --model somebody/" in repo.files["README.md"]
        assert sha256_file(folder / name / "phi3v_mlx_vlm.py") in repo.files["README.md"].decode()
    assert [server.model(f"somebody/{name}").private for name in "mafx"] == [False, True, True, True]
    assert len(filled_hub.said) == 4 and filled_hub.said[0].endswith("(public)")
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "task.json", "training.json"]
    assert sorted(server.model("somebody/a").files) == names
    assert "adapters.safetensors" in server.model("somebody/x").files
    texts = [data for key in server.repos for data in server.repos[key].files.values()]
    assert not any(str(folder.parent).encode() in data for data in texts)  # no path of this machine


def test_the_cards_name_the_data_and_the_hashes(filled_hub: SimpleNamespace, small_catalogue: Path) -> None:
    cards = {name: filled_hub.server.model(f"somebody/{name}").files["README.md"].decode() for name in "maf"}
    fingerprint = json.loads((small_catalogue / "catalogue.json").read_text())["fingerprint"]
    assert fingerprint in cards["a"] and fingerprint in cards["f"] and fingerprint not in cards["m"]
    assert "| rows, train | 12 |" in cards["f"] and "| step | loss | validation loss |" in cards["a"]
    origin = json.loads((filled_hub.folder / "f" / "conversion.json").read_text())
    assert origin["adapter_sha256"] in cards["f"] and origin["source_fingerprint"] in cards["f"]
    assert sha256_file(filled_hub.model / "model.safetensors") in cards["m"]
    local = (filled_hub.folder / "f" / "README.md").read_text()
    assert "mlx_phi3v.generate --model FOLDER" in local and fingerprint in local
    assert not any(str(filled_hub.folder) in text for text in (*cards.values(), local))


def test_a_receipt_goes_along_with_its_verdict_in_the_card(filled_hub: SimpleNamespace, hub: StandIn) -> None:
    measure = {"name": "price error", "before": 0.1, "after": 0.2, "difference": 0.1, "low": 0.05, "high": 0.15, "margin": 0.02}
    receipt = {"verdict": "WORSE", "rows": 32, "measures": [measure], "gap_nats": 0.5, "before": "/home/me/m with /home/me/a",
               "after": "f", "made": "2026-11-26", "versions": {}, "catalogue": "/home/me/shop", "split": "test"}  # fmt: skip
    folder = filled_hub.folder / "f"
    write_json(folder / "receipt.json", receipt)
    try:
        upload(folder, Destination("somebody/f"))
    finally:
        (folder / "receipt.json").unlink()
    files = hub.model("somebody/f").files
    readme = files["README.md"].decode()
    assert "**WORSE**: compared on 32 held-out rows of .../shop" in readme and "0.05 to 0.15" in readme
    assert "Before: .../m with .../a. After: f." in readme
    assert json.loads(files["receipt.json"])["catalogue"] == ".../shop"


def test_a_model_and_an_adapter_of_the_hub_answer_as_the_folders_do(
    hub: StandIn, filled_hub: SimpleNamespace, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next((small_catalogue / "images").rglob("*.png"))

    def answer(model: str, adapter: str) -> object:
        flags = ["--image", str(photo), "--max-new-tokens", "4", "--json"]
        generate.main(["--model", model, "--adapter", adapter, *flags])
        return json.loads(capsys.readouterr().out.splitlines()[-1])["token_ids"]

    there = answer("somebody/m", "somebody/a")
    assert {"config.json", "model.safetensors", "adapter_model.safetensors", "training.json"} <= set(hub.downloads)
    assert "README.md" not in hub.downloads and not any(name.endswith(".py") for name in hub.downloads)
    assert there == answer(str(filled_hub.folder / "m"), str(filled_hub.folder / "run"))
    hub.downloads.clear()
    assert answer("somebody/m", "somebody/a") == there and not hub.downloads  # from the cache


def test_every_form_of_adapter_is_downloaded_by_its_id(hub: StandIn, filled_hub: SimpleNamespace) -> None:
    model = filled_hub.folder / "m"
    config, base = load_model_config(model), base_fingerprint(model)
    _, ours = load_adapter(filled_hub.folder / "run", config, base)
    for name in ("somebody/a", "somebody/x"):
        _, found = load_adapter(resolve_adapter(name), config, base)
        assert found.keys() == ours.keys() and all(np.array_equal(found[key], ours[key]) for key in ours)


def test_what_cannot_be_downloaded_is_a_sentence(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for resolve, flag in ((resolve_model, "--model"), (resolve_adapter, "--adapter")):
        with pytest.raises(UserError, match=rf"{flag} somebody/none.*the hub has no somebody/none.*hf auth login"):
            resolve("somebody/none")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="has no somebody/a, or does not show it to you"):
        resolve_adapter("somebody/a")  # it is private
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        resolve_model("somebody/m")
    assert TOKEN not in capsys.readouterr().err


def test_a_wrong_name_or_token_ends_a_command_before_its_work(
    hub: StandIn, filled_hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--hf-path", str(filled_hub.model), "--mlx-path", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--upload-repo 'mine' is no name of a repository"):
        convert.main([*flags, "--upload-repo", "mine"])
    with pytest.raises(UserError, match="--public is of --upload-repo"):
        convert.main([*flags, "--public"])
    monkeypatch.setenv("HF_TOKEN", "hf_unknownunknownunknown")
    with pytest.raises(UserError, match=r"--upload-repo somebody/new: the hub does not know your token"):
        convert.main([*flags, "--upload-repo", "somebody/new"])
    assert not (tmp_path / "out").exists()


def test_a_failed_upload_leaves_the_folder_and_says_how_to_go_on(
    hub: StandIn, filled_hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_phi3v.hub.upload._PAUSE", 0.0)
    monkeypatch.setitem(hub.faults, "preupload", [503])
    with pytest.raises(
        UserError, match=r"out is whole but not all of it is on the hub \(`python -m mlx_phi3v.upload .*HTTP 503"
    ):
        convert.main(
            ["--hf-path", str(filled_hub.model), "--mlx-path", str(tmp_path / "out"), "--upload-repo", "somebody/late"]
        )
    assert load_model_config(tmp_path / "out") == load_model_config(filled_hub.folder / "m")


def test_no_token_is_in_a_traceback_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-of-another-form")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(sys, "argv", ["mlx_phi3v.upload", "x", "--token", TOKEN])
    address = "https://me:password12@hub.example/a?token=abcdef&x=1"
    sentence = report_fault(RuntimeError(f"GET {address} with Bearer {TOKEN} and secret-of-another-form"))
    [file] = tmp_path.glob("mlx_phi3v-*.txt")
    for shown in (sentence, file.read_text()):
        assert not any(secret in shown for secret in (TOKEN, "password12", "abcdef", "secret-of-another-form"))
    assert "https://[hidden]@hub.example/a?token=[hidden]&x=1" in sentence
    with pytest.raises(UserError) as refused:
        resolve_model(address.replace("https", "http"))
    from mlx_phi3v.errors import shown as as_shown

    assert "password12" not in as_shown(str(refused.value))
