"""Uploads to a stand-in of the hub: what arrives, what is said where it fails, and that nothing is sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_phi3v.errors import UserError
from mlx_phi3v.hub.contents import contents_of
from mlx_phi3v.hub.upload import Destination, check_access, upload
from mlx_phi3v.upload import main
from tests.helpers import hub as hubs
from tests.helpers.hub import READER, TOKEN, StandIn
from tests.helpers.paths import ROOT

RECORDED = ROOT / "tests" / "recorded"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty hub, which this process takes for the hub."""
    with hubs.stand_in() as server:
        hubs.use(server, str(tmp_path / "cache"), monkeypatch)
        monkeypatch.setattr("mlx_phi3v.hub.upload._PAUSE", 0.0)
        yield server


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished training."""
    shutil.copytree(RECORDED / "training-mlx", tmp_path / "runs" / "mine", symlinks=True)
    return tmp_path / "runs" / "mine"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model folder of three files of weights; what they hold is no matter here."""
    folder = tmp_path / "model"
    folder.mkdir()
    for i in range(1, 4):
        (folder / f"model-{i:05d}-of-00003.safetensors").write_bytes(bytes([i]) * 3000)
    (folder / "config.json").write_text('{"model_type": "phi3_v"}')
    (folder / "conversion.json").write_text(json.dumps({"source": "tiny", "source_fingerprint": "ab" * 32}))
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_best_adapter_of_a_training_is_uploaded_without_its_optimiser(hub: StandIn, run_folder: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(run_folder.rglob("*")) if path.is_file()}
    made = upload(run_folder, Destination("somebody/mine"))
    repo = hub.model("somebody/mine")
    assert sorted(repo.files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert repo.files["adapter_model.safetensors"] == (run_folder / "best" / "adapter_model.safetensors").read_bytes()
    assert repo.private and made["private"] and made["repo"] == "somebody/mine" and made["commit"] == repo.sha("main")
    assert before == {path: path.read_bytes() for path in sorted(run_folder.rglob("*")) if path.is_file()}


def test_the_state_of_a_training_goes_along_where_it_is_asked_for(hub: StandIn, run_folder: Path) -> None:
    upload(run_folder, Destination("somebody/mine", public=True, revision="resume"), training_state=True)
    repo = hub.model("somebody/mine")
    assert {"optimizer.safetensors", "state.json"} <= set(repo.branches["resume"]) and not repo.files and not repo.private


def test_what_is_no_part_of_a_model_is_not_uploaded(
    hub: StandIn, sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".env", "notes.docx", "pytorch_model.bin", ".cache/x.json"):
        (sharded / name).parent.mkdir(exist_ok=True)
        (sharded / name).write_text("mine")
    upload(sharded, Destination("somebody/model"))
    weights = [f"model-{i:05d}-of-00003.safetensors" for i in range(1, 4)]
    assert sorted(hub.model("somebody/model").files) == ["README.md", "config.json", "conversion.json", *weights]
    assert "not uploaded, as they are no part of it: notes.docx, pytorch_model.bin" in capsys.readouterr().err
    (tmp_path / "key.json").write_text("{}")
    (sharded / "link.json").symlink_to(tmp_path / "key.json")
    with pytest.raises(UserError, match="a link out of its folder"):
        upload(sharded, Destination("somebody/model"))


def test_a_pipe_in_the_folder_is_named_and_not_waited_for(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    os.mkfifo(tmp_path / "model" / "x.json")
    with pytest.raises(UserError, match=r"x\.json is no file; remove it"):
        contents_of(tmp_path / "model")


def test_a_second_upload_sends_nothing_and_a_smaller_model_takes_the_place_of_the_larger(hub: StandIn, sharded: Path) -> None:
    upload(sharded, Destination("somebody/model"))
    sent = len(hub.uploads)
    upload(sharded, Destination("somebody/model"))
    repo = hub.model("somebody/model")
    assert len(hub.uploads) == sent == 3 and len(repo.commits) == 1
    for path in sharded.glob("model-*"):
        path.unlink()
    (sharded / "model.safetensors").write_bytes(b"whole")
    upload(sharded, Destination("somebody/model"))
    assert sorted(name for name in repo.files if name.endswith("safetensors")) == ["model.safetensors"]


def test_large_files_go_up_in_parts(hub: StandIn, sharded: Path) -> None:
    hub.part_bytes = 1000
    upload(sharded, Destination("somebody/model"))
    assert len(hub.uploads) == 9
    name = "model-00002-of-00003.safetensors"
    assert hub.model("somebody/model").files[name] == (sharded / name).read_bytes()


def test_a_killed_upload_goes_on_with_what_is_missing(hub: StandIn, sharded: Path, tmp_path: Path) -> None:
    """SIGKILL as the second file of weights has arrived."""
    words = [sys.executable, "-m", "mlx_phi3v.upload", str(sharded), "--repo", "somebody/model"]
    environment = os.environ | hubs.environment(hub, str(tmp_path / "home")) | {"PYTHONPATH": str(ROOT)}
    started = threading.Event()

    def kill(number: int) -> None:
        if number == 2 and started.wait(300):
            process.send_signal(signal.SIGKILL)

    hub.on_upload = kill
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.set()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    arrived = set(hub.uploads)
    assert len(arrived) >= 2 and not hub.model("somebody/model").commits
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    weights = {digest(path) for path in sharded.glob("*.safetensors")}
    assert set(hub.uploads) == weights and len(hub.uploads) == len(weights)  # each content once, over both
    assert hub.model("somebody/model").files["config.json"] == (sharded / "config.json").read_bytes()
    assert TOKEN not in output + errors + done.stdout + done.stderr


def test_an_interrupt_does_not_wait_for_what_is_under_way(hub: StandIn, sharded: Path, tmp_path: Path) -> None:
    """The hub takes the first file and does not answer until the command has ended."""
    arrived, ended = threading.Event(), threading.Event()

    def stall(number: int) -> None:
        arrived.set()
        ended.wait(400)

    hub.on_upload = stall
    (tmp_path / "scratch").mkdir()
    words = [sys.executable, "-m", "mlx_phi3v.upload", str(sharded), "--repo", "somebody/model"]
    environment = os.environ | hubs.environment(hub, str(tmp_path / "home")) | {"PYTHONPATH": str(ROOT)}
    environment["TMPDIR"] = str(tmp_path / "scratch")
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert arrived.wait(300)
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        ended.set()
    assert (output, errors, process.returncode) == ("", "interrupted\n", 130)
    assert not list((tmp_path / "scratch").glob("mlx_phi3v-scratch-*")) and not hub.model("somebody/model").commits


def test_a_fault_of_the_hub_half_way_is_tried_again_and_then_said(hub: StandIn, sharded: Path) -> None:
    hub.faults["POST .*/commit/"] = [503]
    with pytest.raises(UserError, match=r"is whole but not all of it is on the hub .*HTTP 503.*goes on where it ended"):
        upload(sharded, Destination("somebody/model"))
    assert hub.requests["POST /api/models/somebody/model/commit/main"] == 3
    assert len(hub.uploads) == 3 and not hub.model("somebody/model").files
    hub.faults["POST .*/commit/"] = [503, 409, 0]  # 0: no fault from then on
    upload(sharded, Destination("somebody/model"))
    assert len(hub.uploads) == 3 and len(hub.model("somebody/model").files) == 6


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ("repos/create", 401, r"does not know your token \(HTTP 401\); log in with `hf auth login`"),
        ("repos/create", 403, r"may not do this to somebody/mine \(HTTP 403\).*hf auth login"),
        ("repos/create", 402, r"to be paid"),
        ("preupload", 404, r"has no somebody/mine, or does not show it to you .*hf auth login"),
        ("commit", 409, r"another process is writing .*run the same command again"),
        ("batch", 413, r"no room"),
        ("batch", 429, r"asks to wait"),
        ("PUT ", 500, r"has a fault \(HTTP 500\)"),
        ("validate-yaml", 400, r"head of README.md"),
        ("commit", 418, r"refused it \(HTTP 418\)"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(hub: StandIn, run_folder: Path, request_: str, status: int, said: str) -> None:
    hub.faults[request_] = [status]
    with pytest.raises(UserError, match=said) as refused:
        upload(run_folder, Destination("somebody/mine"))
    assert not re.search(r"https?://|Bearer|\n", str(refused.value)) and TOKEN not in str(refused.value)


def test_a_reader_an_unknown_token_and_none_are_told_apart(
    hub: StandIn, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = Destination("somebody/mine")
    check_access(to, "--upload-repo")
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(UserError, match="HTTP 403"):
        upload(run_folder, to)
    monkeypatch.setenv("HF_TOKEN", "hf_unknownunknownunknown")
    with pytest.raises(UserError, match=r"HTTP 401\).*hf auth login"):
        check_access(to, "--upload-repo")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="there is no token of the hub; log in with `hf auth login`"):
        check_access(to, "--upload-repo")
    assert capsys.readouterr().err == ""


def test_no_network_is_a_sentence(hub: StandIn, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://user:hf_secretsecretsecret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"the hub \(127\.0\.0\.1:9\) cannot be reached"):
        upload(run_folder, Destination("somebody/mine"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_access(Destination("somebody/mine"), "--upload-repo")


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "https://me:hf_secretsecretsecret@hub/a/b", "a/..", "é/b", "a/b\n", "-a/b", ""]
)
def test_a_name_that_is_none_is_refused_before_anything_is_sent(hub: StandIn, run_folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="give OWNER/NAME") as refused:
        upload(run_folder, Destination(name))
    assert not hub.requests and "hf_secret" not in str(refused.value)


def test_a_folder_that_is_none_and_one_with_a_token_are_refused(hub: StandIn, sharded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        upload(tmp_path / "none", Destination("somebody/mine"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        upload(tmp_path / "empty", Destination("somebody/mine"))
    (tmp_path / "empty" / "catalogue.json").write_text("{}")
    with pytest.raises(UserError, match="--to-hub"):
        upload(tmp_path / "empty", Destination("somebody/mine"))
    (sharded / "config.json").write_text(json.dumps({"model_type": "phi3_v", "note": TOKEN}))
    with pytest.raises(UserError, match=r"config\.json holds what looks like a token") as refused:
        upload(sharded, Destination("somebody/mine"))
    assert TOKEN not in str(refused.value) and not hub.requests


def test_the_command_says_where_it_is_and_never_the_token(
    hub: StandIn, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_folder), "--repo", "somebody/mine", "--license", "mit", "--json"]) == 0
    shown = capsys.readouterr()
    line = json.loads(shown.out)
    assert line["event"] == "uploaded" and line["url"].endswith("somebody/mine") and line["files"] == 4
    assert b"license: mit" in hub.model("somebody/mine").files["README.md"]
    main([str(run_folder), "--repo", "somebody/mine", "--public"])
    shown_again = capsys.readouterr()
    assert "is there and private, and stays so" in shown_again.err
    everything = "".join([shown.out, shown.err, shown_again.out, shown_again.err])
    everything += "".join(data.decode("utf-8", "replace") for data in hub.model("somebody/mine").files.values())
    assert TOKEN not in everything and f"Bearer {TOKEN}" in hub.authorised
