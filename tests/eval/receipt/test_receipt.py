"""A receipt says that an honest fuse changes nothing, that a broken one does, and what a quantisation costs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.receipt.__main__ import main
from eval.receipt.make_receipt import ReceiptConfig, exit_status, make_receipt
from eval.receipt.weights import WeightCheck, check_weights
from mlx_phi3v import fusion
from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, AdapterArgs, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint, stored_fingerprint
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.convert import main as convert_main
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import write_json
from mlx_phi3v.fuse import FuseConfig, fuse
from mlx_phi3v.fuse import main as fuse_main
from mlx_phi3v.receipt import DIFFERENT, SAME, Receipt, Request, known_catalogue, read_receipt, receipt_json
from mlx_phi3v.task import Task
from mlx_phi3v.trained_task import TrainedTask
from tests.helpers.catalogue import write_catalogue
from tests.mlx_phi3v.test_adapters import filled

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.numeric
ARGS = AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE)
QUICK = ("--resamples", "50", "--max-new-tokens", "12")
LEFT_OUT = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def folders(checkpoint: Path, small_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, as a training leaves it; `fused`; `broken`, in which one layer was left out."""
    folder = tmp_path_factory.mktemp("receipts")
    adapter = folder / "run" / "best"
    save_adapter(adapter, ARGS, filled(checkpoint, ARGS), base_fingerprint(checkpoint))
    TrainedTask(Task(), 1, "float32").save(adapter)
    write_json(folder / "run" / "settings.json", {"data": str(small_catalogue), "seed": 0})
    fuse(FuseConfig(str(folder / "run"), str(checkpoint), folder / "fused"))
    with pytest.MonkeyPatch.context() as patch:
        leave_out_a_layer(patch)
        fuse(FuseConfig(str(folder / "run"), str(checkpoint), folder / "broken"))
    return folder


def leave_out_a_layer(patch: pytest.MonkeyPatch) -> None:
    """Let `fuse` merge every layer of an adapter but one."""
    load = fusion.load_adapter

    def load_less(*arguments: Any) -> Any:
        args, tensors = load(*arguments)
        return args, {name: value for name, value in tensors.items() if LEFT_OUT not in name}

    patch.setattr(fusion, "load_adapter", load_less)


def receipt_of(folders: Path, after: str, checkpoint: Path, catalogue: Path, **changes: Any) -> Receipt:
    config = ReceiptConfig(
        catalogue, (str(checkpoint), str(folders / after)), str(folders / "run"), "same", 4, max_new_tokens=12, resamples=50
    )
    return make_receipt(replace(config, **changes))


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_an_honest_fuse_changes_no_token(
    backend: str, folders: Path, checkpoint: Path, small_catalogue: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    receipt = receipt_of(folders, "fused", checkpoint, small_catalogue, backend=backend, output=tmp_path)
    assert receipt.verdict == SAME and exit_status(receipt) == 0 and receipt.same_tokens == receipt.rows == 4
    # fp32, summed in another order: far below a thousandth of a nat, as eval.compare has it for rounding.
    assert receipt.gap_nats is not None and receipt.gap_nats < 1e-3
    assert receipt.weights_checked > 50 and not receipt.weights_wrong
    assert read_receipt(tmp_path) == receipt
    assert receipt.line.startswith("SAME: all 4 rows have the same tokens, gap ")
    page = (tmp_path / "receipt.md").read_text()
    assert receipt.line in page and "| category3_code accuracy |" in page
    assert receipt.fingerprints["weights"] == stored_fingerprint(folders / "fused") != receipt.fingerprints["base"]
    assert receipt.versions[backend]


def test_a_fuse_that_left_out_a_layer_is_said_to_differ(
    folders: Path, checkpoint: Path, small_catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [checkpoint, folders / "broken", "--data", small_catalogue, "--adapter", folders / "run", "--rows", 4]
    assert main([*map(str, flags), "--expect", "same", "--output", str(tmp_path), *QUICK, "--json"]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["event"] == "receipt" and said["verdict"] == DIFFERENT
    assert said["weights_wrong"] == [f"{LEFT_OUT}.weight"]
    assert f"1 of {said['weights_checked']} tensors are not what was merged, first {LEFT_OUT}.weight" in said["line"]
    assert receipt_json(read_receipt(tmp_path) or pytest.fail("no receipt")) == {k: v for k, v in said.items() if k != "event"}


def test_other_answers_tell_without_the_weights(folders: Path, checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    """As where a folder is right and the code that reads it is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.receipt.make_receipt.check_weights", lambda *_: WeightCheck(9, []))
        receipt = receipt_of(folders, "broken", checkpoint, small_catalogue, output=tmp_path)
    assert receipt.verdict == DIFFERENT and exit_status(receipt) == 1
    assert re.fullmatch(
        r"DIFFERENT: .* rows have the same tokens, gap .* more than rounding explains \(0\.0\d*\)", receipt.line
    )


def test_fuse_ends_with_an_error_where_a_layer_is_missing(
    folders: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command by itself: it finds the catalogue of the training, and asks another process."""
    leave_out_a_layer(monkeypatch)
    out = tmp_path / "out"
    flags = ["--model", str(checkpoint), "--adapter", str(folders / "run"), "--save-path", str(out), "--receipt", "2"]
    with pytest.raises(UserError, match=r"out does not compute what .* does: DIFFERENT: 1 of \d+ tensors .* do not use it"):
        fuse_main(flags)
    receipt = read_receipt(out)
    assert receipt is not None and receipt.verdict == DIFFERENT and receipt.rows == 2


def test_a_quantised_model_says_what_it_costs(
    folders: Path, checkpoint: Path, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = folders / "packed"
    convert(ConvertConfig(str(folders / "fused"), packed, quantize=True, q_bits=4, q_group_size=32))
    flags = [str(folders / "fused"), str(packed), "--data", str(small_catalogue), "--rows", "4", *QUICK]
    status = main(flags)
    receipt = read_receipt(packed)
    assert receipt is not None and status == exit_status(receipt) and receipt.verdict not in (SAME, DIFFERENT)
    assert status != 0 and receipt.line.startswith(receipt.verdict)
    assert re.search(r"category3_code accuracy [+-][\d.]+ points \([+-][\d.]+ to [+-][\d.]+\)", receipt.line)
    assert re.search(r"of 4 rows have the same tokens, gap \S+ nats$", receipt.line)
    assert receipt.gap_nats is not None and receipt.gap_nats > 1e-3  # 4 bits are no rounding of fp32
    measures = {measure.name: measure for measure in receipt.measures}
    assert measures["category3_code accuracy"].margin == 0.02 and measures["title exact match"].margin is None
    assert not receipt.weights_checked
    # The next step finds the catalogue in this receipt, and the adapter's training behind it.
    assert known_catalogue(str(packed), None) == small_catalogue == known_catalogue(str(folders / "fused"), None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_held_to_one_rounding(dtype: str, folders: Path, checkpoint: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    convert(ConvertConfig(str(checkpoint), base, dtype=dtype))
    args = replace(ARGS, modules_to_save=PROJECTOR)
    save_adapter(adapter, args, filled(base, args), base_fingerprint(base))
    fuse(FuseConfig(str(adapter), str(base), tmp_path / "fused"))
    assert check_weights(base, str(adapter), tmp_path / "fused").wrong == []
    assert check_weights(checkpoint, None, base).wrong == []  # a cast
    wrong = check_weights(base, None, tmp_path / "fused").wrong
    assert len(wrong) == 2 * 4 + 4 and f"{LEFT_OUT}.weight" in wrong  # two layers' projections, and the projector
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-2] ^= 2  # of the last number, a step of two in 16 bits, more in 32
    shutil.copytree(base, tmp_path / "changed")
    (tmp_path / "changed" / "model.safetensors").write_bytes(data)
    assert len(check_weights(base, None, tmp_path / "changed").wrong) == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The command lines of receipts that were asked for, instead of running them."""
    lines: list[list[str]] = []
    monkeypatch.setattr("mlx_phi3v.receipt.subprocess.run", lambda line, env: lines.append(line))
    yield lines


def test_a_receipt_is_asked_for_where_something_changes_and_a_catalogue_is_known(
    folders: Path, small_catalogue: Path, tmp_path: Path, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def converted(name: str, *flags: str) -> list[str]:
        asked.clear()
        source = ["--hf-path", str(folders / "fused"), "--mlx-path", str(tmp_path / name)]
        assert convert_main([*source, *flags]) == 0
        return asked[0] if asked else []

    assert converted("plain") == []  # every bit stays
    line = converted("packed", "-q", "--q-group-size", "32")
    assert line[line.index("--expect") + 1] == "cost" and line[line.index("--rows") + 1] == "32"
    assert line[line.index("--data") + 1] == str(small_catalogue)
    line = converted("hf", "--to-hf", "--receipt", "7")
    assert line[line.index("--expect") + 1] == "same" and line[line.index("--rows") + 1] == "7"
    assert converted("none", "--dtype", "bfloat16", "--receipt", "0") == []
    assert "no receipt was made, see above" in capsys.readouterr().err  # as nothing ran


def test_without_a_catalogue_one_line_says_so(
    checkpoint: Path, tmp_path: Path, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(str(checkpoint), None, tmp_path, True, 32, None)
    assert request.make(as_json=False) is None and not asked
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: no receipt was made: no catalogue is known") and "--catalogue DIR" in line
    replace(request, rows=0).make(as_json=False)
    assert not capsys.readouterr().err


def test_a_catalogue_that_is_none_stops_before_anything_is_made(checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--hf-path", str(checkpoint), "--mlx-path", str(tmp_path / "out"), "--catalogue", str(tmp_path)]
    with pytest.raises(UserError, match=r"--catalogue .* is not a catalogue: it has no catalogue\.json; give its folder"):
        convert_main(flags)
    assert not (tmp_path / "out").exists()


def test_two_models_and_held_out_rows_are_needed(checkpoint: Path, tmp_path: Path, make_catalogue: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="give two models, BEFORE and AFTER; the flags have 1"):
        main([str(checkpoint), "--data", str(tmp_path)])
    with pytest.raises(UserError, match=r"AFTER .*nowhere is not a folder"):
        main([str(checkpoint), str(tmp_path / "nowhere"), "--data", str(tmp_path)])
    with pytest.raises(UserError, match="has no split 'test' or 'validation', whose rows were held out; give --split"):
        main([str(checkpoint), str(checkpoint), "--data", str(make_catalogue({"train": 2}))])


@pytest.fixture
def make_catalogue(tmp_path: Path) -> Callable[..., Path]:
    return lambda rows: write_catalogue(tmp_path / "catalogue", rows)
