"""Several trainings a side: which runs may stand for one way to train, and their rows joined."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlx_phi3v.errors import UserError

from ..runs.columns import FieldColumn, Ints, RunColumns, first_category
from ..runs.run import Run
from ..runs.training_settings import seed_of, setting_differences
from .comparable import RunDifference, check_comparable, join, manifest_differences, read_for_comparison, row_differences
from .notes import notes_of_rows, values_unlike_answers
from .products import Products, find_products
from .trainings import find_training

# In what the runs of one side may differ: where and when they ran.
_MACHINE = ("code", "packages", "device", "batch_size", "processes", "adapter", "model", "merged", "adapter weights")
_NO_SETTING = ("adapter_config.base_model_name_or_path", "adapter_config.peft_version")
REPEATED_SEED = "repeated-seed"
_LEAST = 2  # trainings a side


@dataclass(frozen=True)
class Training:
    """One run of a side. seed: of its training; None where it is not recorded."""

    label: str
    path: str
    rows: int
    seed: int | None
    finished: bool
    adapter: str | None  # hash of its weights


@dataclass(frozen=True)
class Side:
    """The runs of one side; `fields`: of each training the columns of the joined rows."""

    name: str
    label: str
    trainings: list[Training]
    manifest: dict[str, object] = field(repr=False, metadata={"json": False})
    fields: list[dict[str, FieldColumn]] = field(repr=False, metadata={"json": False})

    def column(self, name: str) -> list[FieldColumn]:
        """One field of every training."""
        return [fields[name] for fields in self.fields]


@dataclass(frozen=True)
class TrainingSets:
    """Both sides, on the rows that every run has. paired: training k of both sides has the same seed."""

    a: Side
    b: Side
    paired: bool
    ids: list[str]
    only_a: int  # rows that all runs of A have, and not all of B
    only_b: int
    neither: int  # rows that some run of either side lacks
    category: list[str | None]
    products: Products
    differences: list[RunDifference]  # between the sides
    settings: list[tuple[str, object, object]]  # in which the trainings of the sides differ
    known_settings: bool  # of all trainings
    first: tuple[Run, Run] = field(repr=False)
    of_rows: list[str] = field(default_factory=list)  # what is wrong with the rows of some training, one sentence each

    @property
    def sides(self) -> tuple[Side, Side]:
        """A and B."""
        return self.a, self.b

    @property
    def fields(self) -> dict[str, FieldColumn]:
        """The fields that all runs have, of the first of them."""
        return self.a.fields[0]

    @property
    def clusters(self) -> Ints:
        """Each row's product [n]; every row its own where each counts by itself."""
        return np.arange(len(self.ids)) if self.products.clusters is None else self.products.clusters


def load_sets(
    runs_a: Sequence[Run], runs_b: Sequence[Run], *, allow: Collection[str] = (), cluster: str | None = None,
    say: Callable[[str], None] = lambda stage: None,
) -> TrainingSets:  # fmt: skip
    """Check, pair and join the runs of two sides.

    Raises UserError where a side has one run only, or two of the same weights or seed; where runs differ in data, prompt or
    decoding; where the trainings of one side differ in more than their seed; and where no row is in all runs.
    """
    settings = {id(run): _settings(run) for run in (*runs_a, *runs_b)}
    seeds = {id(run): seed_of(settings[id(run)]) for run in (*runs_a, *runs_b)}
    for name, runs in (("a", runs_a), ("b", runs_b)):
        _check_side(name, runs, [settings[id(run)] for run in runs], [seeds[id(run)] for run in runs], allow)
    paired = _same_seeds([seeds[id(run)] for run in runs_a], [seeds[id(run)] for run in runs_b])
    if paired:
        runs_a, runs_b = (sorted(runs, key=lambda run: seeds[id(run)] or 0) for runs in (runs_a, runs_b))
    columns, of_rows = [], list[str]()
    for run in (*runs_a, *runs_b):
        say(f"reading {run.label}")
        whole = read_for_comparison(run)
        of_rows += [*values_unlike_answers(run.label, run, whole), *notes_of_rows(run.label, run, whole)]
        columns.append(_slim(whole))
    return replace(_join(runs_a, runs_b, columns, settings, paired, allow, cluster), of_rows=of_rows)


def _settings(run: Run) -> dict[str, object]:
    """Of the run's training: as the run recorded them, else (runs of earlier versions) from its adapter's folder."""
    recorded = run.manifest.get("training")
    found = None if recorded else find_training(run)
    return dict(recorded or (found.settings if found else {}))


def _same_seeds(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    """Whether both sides have the same seeds, each once."""
    return None not in (*a, *b) and len(set(a)) == len(a) == len(b) and set(a) == set(b)


def _check_side(
    name: str, runs: Sequence[Run], settings: Sequence[dict[str, object]], seeds: Sequence[int | None], allow: Collection[str]
) -> None:
    if len(runs) < _LEAST:
        raise UserError(f"--{name} has one run; give at least {_LEAST} trainings a side, or compare RUN_A RUN_B by themselves")
    for k, run in enumerate(runs[1:], 1):
        for other in runs[:k]:
            if os.path.realpath(run.path) == os.path.realpath(other.path) or _same_weights(run, other):
                raise UserError(f"--{name}: {other.path} and {run.path} are of the same adapter; give each training once")
        found = [*side_differences(runs[0], run), *_setting_items(settings[0], settings[k])]
        if seeds[k] is not None and seeds[k] in seeds[:k]:
            found.append(RunDifference(REPEATED_SEED, seeds[k], seeds[k], True))
        refused = [item for item in found if item.name not in allow]
        if refused:
            names = " ".join(shlex.quote(item.name) for item in refused)
            raise UserError(
                f"--{name}: {runs[0].path} and {run.path} are no trainings of one kind, which differ in their seed alone: "
                f"{'; '.join(map(str, refused))}. Give others, or accept it with --allow {names}"
            )


def _same_weights(a: Run, b: Run) -> bool:
    x, y = (run.manifest.get("hashes") or {} for run in (a, b))
    return bool(x.get("base")) and all(x.get(name) == y.get(name) for name in ("base", "adapter"))


def side_differences(a: Run, b: Run) -> list[RunDifference]:
    """In what two runs of one side must not differ, beside the settings of their trainings."""
    found = [item for item in manifest_differences(a.manifest, b.manifest) if item.name.split(".")[0] not in _MACHINE]
    fused = not any((run.manifest.get("hashes") or {}).get("adapter") for run in (a, b))  # the training is in the base weights
    return [
        item
        for item in found
        if not item.refuses and item.name not in _NO_SETTING and not (fused and item.name == "base weights")
    ]


def _setting_items(a: dict[str, object], b: dict[str, object]) -> Iterator[RunDifference]:
    for name, x, y in setting_differences(a, b):
        if name in a and name in b:  # what a training did not record refuses nothing
            yield RunDifference(f"training.{name}", x, y, True)


def allowed_names(runs_a: Sequence[Run], runs_b: Sequence[Run]) -> set[str]:
    """The names that --allow takes, beside those of two runs."""
    found = {REPEATED_SEED}
    for runs in (runs_a, runs_b):
        found |= {item.name for run in runs for item in side_differences(runs[0], run)}
    return found | {f"training.{name}" for run in (*runs_a, *runs_b) for name in _settings(run)}


def _slim(columns: RunColumns) -> RunColumns:
    """Without the tokens, which take most of the memory, and the digests that are not asked for."""
    empty = np.zeros(0)
    tokens = replace(columns.tokens, ids=np.zeros(0, np.int64), logprobs=empty, bounds=np.zeros(1, np.int64))
    return replace(columns, tokens=tokens, digests={"true": columns.digests["true"]})


def _join(
    runs_a: Sequence[Run], runs_b: Sequence[Run], columns: list[RunColumns], settings: dict[int, dict[str, object]],
    paired: bool, allow: Collection[str], cluster: str | None,
) -> TrainingSets:  # fmt: skip
    """The rows that all runs have. Raises UserError where runs must not be compared."""
    runs = [*runs_a, *runs_b]
    first, between = runs[0], list[RunDifference]()
    for run, of_run in zip(runs[1:], columns[1:]):
        rows = join(columns[0], of_run)
        found = manifest_differences(first.manifest, run.manifest) + row_differences(columns[0], of_run, rows)
        check_comparable(first, run, found, rows, allow)
        if run is runs_b[0]:
            between = found
    half = len(runs_a)
    here_a, here_b = (set.intersection(*(set(item.ids) for item in side)) for side in (columns[:half], columns[half:]))
    everywhere = here_a & here_b
    ids = [identity for identity in columns[0].ids if identity in everywhere]
    if not ids:
        raise UserError("no row is in all runs; run all of them on the same catalogue and split")
    places = [_places(item, ids) for item in columns]
    names = [name for name in columns[0].fields if all(name in item.fields for item in columns)]
    fields = [{name: item.fields[name].take(at) for name in names} for item, at in zip(columns, places)]
    seen = len(set().union(*(item.ids for item in columns)))
    group = first_category(first.task)
    return TrainingSets(
        a=_side("A", runs_a, fields[:half], settings),
        b=_side("B", runs_b, fields[half:], settings),
        paired=paired,
        ids=ids,
        only_a=len(here_a - everywhere),
        only_b=len(here_b - everywhere),
        neither=seen - len(here_a | here_b),
        category=list(fields[0][group].true) if group in fields[0] else [None] * len(ids),
        products=find_products(ids, list(zip(runs, columns, places)), fields[0], cluster),
        differences=between,
        settings=setting_differences(settings[id(first)], settings[id(runs_b[0])]),
        known_settings=all(settings[id(run)] for run in runs),
        first=(first, runs_b[0]),
    )


def _places(columns: RunColumns, ids: Sequence[str]) -> Ints:
    position = columns.position()
    return np.array([position[identity] for identity in ids], dtype=np.int64)


def _side(
    name: str, runs: Sequence[Run], fields: list[dict[str, FieldColumn]], settings: dict[int, dict[str, object]]
) -> Side:  # fmt: skip
    trainings = [
        Training(
            run.label,
            str(run.path),
            int(run.manifest.get("rows") or 0),
            seed_of(settings[id(run)]),
            run.finished,
            (run.manifest.get("hashes") or {}).get("adapter"),
        )
        for run in runs
    ]
    return Side(name, _shared_label([run.label for run in runs]), trainings, runs[0].manifest, fields)


def _shared_label(labels: Sequence[str]) -> str:
    """What the runs' labels have in common: "mlx" of mlx-0 and mlx-1; else the first one's name and how many more.

    >>> _shared_label(["mlx-seed0", "mlx-seed1"]), _shared_label(["a", "b"])
    ('mlx', 'a and 1 more')
    """
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*labels))
    common = "".join(letters[0] for letters in alike).rstrip("0123456789").removesuffix("seed").rstrip("-_. ")
    return common or f"{labels[0]} and {len(labels) - 1} more"
