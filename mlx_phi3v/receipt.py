"""`receipt.json`: what a fused, converted or quantised folder costs against what it was made of.

`eval.receipt` writes it into the folder, after `eval.compare` judged both on held-out rows. Here are its form, for whoever
reads it, and how `fuse` and `convert` ask for one: as a child process, as this package imports nothing of `eval`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .adapter_files import SETTINGS_FILE, resolve_adapter, training_folder
from .checkpoint.fingerprint import SOURCE_FILE
from .checkpoint.hub import resolve_model
from .commands import child_command, child_environment
from .documents import read_as
from .errors import UserError
from .progress import note

RECEIPT_FILE, RECEIPT_PAGE = "receipt.json", "receipt.md"
SAME, DIFFERENT = "SAME", "DIFFERENT"  # verdicts beside those of `eval.compare`


class Measure(msgspec.Struct, kw_only=True, frozen=True):
    """One measure of both models. `low`, `high`: the 95 % interval of `difference`, after - before; null where there is none.

    margin: the largest difference that still counts as equal; null where the measure does not decide.
    """

    name: str
    before: float | None
    after: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    margin: float | None = None


class Receipt(msgspec.Struct, kw_only=True, frozen=True):
    """`receipt.json`.

    verdict: of `eval.compare` (EQUIVALENT, WORSE, BETTER, INCONCLUSIVE or NOT MEANINGFUL); SAME where every answer has the
    same tokens and rounding explains the gap; DIFFERENT where the model had to compute the same and does not. gap_nats: the
    largest difference of a token's log-probability before its row's first other token; null where none was recorded.
    before, after: what was compared, in words. made: the day, as YYYY-MM-DD. Shares are 0 to 1.
    """

    verdict: str
    rows: int
    measures: list[Measure]
    gap_nats: float | None
    before: str
    after: str
    made: str
    versions: dict[str, str]
    same_tokens: int = 0  # rows whose answers have the same tokens
    catalogue: str = ""
    split: str = ""
    fingerprints: dict[str, str] = {}  # SHA-256 of the weights, the catalogue and the adapter, by name
    weights_checked: int = 0  # tensors compared one by one, where the model had to compute the same
    weights_wrong: list[str] = []  # and those that are not what was merged, by name
    line: str = ""  # the verdict as one sentence


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of a model folder; None where there is none. Raises UserError where the file is not of this form."""
    path = folder / RECEIPT_FILE
    return read_as(path, "receipt", Receipt) if path.exists() else None


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """The receipt as plain values, for `files.write_json`."""
    values: dict[str, Any] = msgspec.to_builtins(receipt)
    return values


@dataclass(frozen=True)
class Request:
    """What a receipt is asked for. before: model, with `adapter`; after: the folder that was made of it.

    same: whether `after` must compute the same, but for rounding. rows: 0 for no receipt. catalogue: None to find it out.
    """

    before: str
    adapter: str | None
    after: Path
    same: bool
    rows: int
    catalogue: Path | None

    def check(self) -> None:
        """Raise UserError where the catalogue that was named is none: before the model is made, not after."""
        if self.rows and self.catalogue and not (self.catalogue / "catalogue.json").is_file():
            raise UserError(f"--catalogue {self.catalogue} is not a catalogue: it has no catalogue.json; give its folder")

    def make(self, *, as_json: bool, again: bool = False) -> str | None:
        """Make the receipt and say its line; the verdict, or None where there is none. again: `after` was there before.

        Raises UserError where the model does not compute what it must.
        """
        if not self.rows or (again and (self.after / RECEIPT_FILE).exists()):
            return None
        catalogue = self.catalogue or known_catalogue(self.before, self.adapter)
        if catalogue is None:
            if not again:
                note("no receipt was made: no catalogue is known with rows that both models could answer; give --catalogue DIR")
            return None
        flags = ["--data", str(catalogue), "--rows", str(self.rows), "--expect", "same" if self.same else "cost"]
        flags += ["--adapter", self.adapter] if self.adapter else []
        command = [*child_command("eval.receipt"), self.before, str(self.after), *flags, *(["--json"] if as_json else [])]
        (self.after / RECEIPT_FILE).unlink(missing_ok=True)
        subprocess.run(command, env=child_environment())
        receipt = read_receipt(self.after)
        if receipt is None:  # it has said why
            note(f"no receipt was made, see above; {self.after} is whole")
            return None
        if receipt.verdict == DIFFERENT:
            raise UserError(
                f"{self.after} does not compute what {receipt.before} does: {receipt.line}; do not use it, see "
                f"{RECEIPT_PAGE} there"
            )
        note(f"receipt: {receipt.line}")
        return receipt.verdict


class _SettingsShape(msgspec.Struct):
    """`settings.json` of a training, and `conversion.json`: what leads to a catalogue."""

    data: str | None = None
    adapter: str | None = None


def known_catalogue(model: str, adapter: str | None) -> Path | None:
    """The catalogue of the adapter's training, else of the one that was fused into the model, or of the model's receipt."""
    try:
        if adapter:
            return _of_training(resolve_adapter(adapter, hub=False))
        folder = resolve_model(model)
        record = folder / SOURCE_FILE
        fused = read_as(record, "conversion record", _SettingsShape).adapter if record.is_file() else None
        receipt = read_receipt(folder)
        found = _existing(receipt.catalogue) if receipt else None
        return found or (_of_training(resolve_adapter(fused, hub=False)) if fused else None)
    except UserError:  # an adapter of the hub, or one that has moved
        return None


def _of_training(adapter: Path) -> Path | None:
    folder = training_folder(adapter)
    return _existing(read_as(folder / SETTINGS_FILE, "training settings", _SettingsShape).data) if folder else None


def _existing(folder: str | None) -> Path | None:
    return Path(folder) if folder and (Path(folder) / "catalogue.json").is_file() else None
