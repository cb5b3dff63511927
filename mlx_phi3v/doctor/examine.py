"""The recorded cases and every stage on one backend, in each dtype, and its kernels: what decides whether it can be trusted."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..backend import load_backend, set_up
from ..backend_names import DTYPES
from ..config import load_model_config
from ..files import scratch_folder
from ..golden.cases import GoldenCase, check_forward, check_gradients, check_greedy, check_pixels, load_cases
from ..golden.checks import Check
from .kernels import check_kernels, did_not_run
from .packing import read_weights, write_packed
from .plain import PlainModel
from .stages import Stage, check_plain, check_stages, tolerances, trace_case

FOLDER = Path(__file__).parent / "recorded"
WEIGHTS = (*DTYPES, "8 bit", "4 bit")
# The cases whose stages are compared one by one: a photo, and, where RoPE's long factors belong, a long text: of that only RoPE
# in other dtypes than fp32, as the rest is the same and takes its time.
PHOTO, LONG = TRACED = ("img200x200_crops1", "long_text")
GRADIENTS = (PHOTO, "text_only")
FIVE_CROPS = "img500x160_crops4"  # with its tokens and gradients it would take half of the time


@dataclass(frozen=True)
class Reference:
    """The plain model with some weights, the folder that holds them, and its stages of each traced case."""

    folder: Path
    plain: PlainModel
    traces: dict[str, list[Stage]]
    allowed: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def tolerances(self, case: str, dtype: str) -> list[float]:
        """Of each stage of a case; computed once."""
        if (case, dtype) not in self.allowed:
            self.allowed[case, dtype] = tolerances(self.traces[case], self.plain, dtype)
        return self.allowed[case, dtype]


class Examination:
    """Runs the checks; what the backends are compared with is computed once for all of them."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.say = say
        self.cases = load_cases(FOLDER)
        self.references: dict[str, Reference] = {}

    def reference(self, weights: str) -> Reference:
        """The plain model for an entry of `WEIGHTS`; bf16 and fp16 have one, of the weights as they are stored in bf16."""
        key = weights if weights not in ("bfloat16", "float16") else "narrow"
        if key not in self.references:
            self.say(f"numpy: the recorded model, {key}")
            folder = FOLDER / "checkpoint"
            if weights in DTYPES:
                exact = {name: weight.astype(np.float64) for name, weight in read_weights(folder).items()}
            else:
                folder, source = scratch_folder() / "model", folder
                exact = write_packed(source, folder, int(weights.split()[0]))
            plain = PlainModel(load_model_config(folder), exact)
            self.references[key] = Reference(
                folder, plain, {case.name: self._trace(plain, case, key) for case in self.cases if case.name in TRACED}
            )
        return self.references[key]

    @staticmethod
    def _trace(plain: PlainModel, case: GoldenCase, key: str) -> list[Stage]:
        stages = trace_case(plain, case)
        return stages if key == "float32" or case.name == PHOTO else [stage for stage in stages if stage.method == "rotary"]

    def check_reference(self) -> list[Check]:
        """The plain model against the recorded outputs: without that it would prove nothing."""
        reference = self.reference("float32")
        traced = (case for case in self.cases if case.name in TRACED)
        return [check_plain(case, reference.traces[case.name]) for case in traced]

    def kernels(self, backend: str) -> list[Check]:
        """Every special kernel of a backend."""
        set_up(backend)
        self.say(f"{backend}: kernels")
        module = importlib.import_module(f"mlx_phi3v.backend_{backend}.kernels")
        return check_kernels(backend, module.kernels())

    def model(self, backend: str, weights: str) -> list[Check]:
        """Every stage alone, then, in fp32, the recorded cases from photo to tokens; `Check.backend` names the weights too."""
        label = f"{backend}, {weights}"
        self.say(label)
        try:
            checks = self.stages(backend, weights) + (self.recorded(backend) if weights == "float32" else [])
            return [replace(check, backend=label) for check in checks]
        except Exception as error:  # a model that does not run at all cannot be trusted either
            return [did_not_run(label, "the model", error)]
        finally:
            gc.collect()

    def stages(self, backend: str, weights: str) -> list[Check]:
        """Every stage alone, against the plain model."""
        reference = self.reference(weights)
        loaded = load_backend(backend, reference.folder, dtype=weights if weights in DTYPES else None)
        stages = importlib.import_module(f"mlx_phi3v.backend_{backend}.stages").Stages(loaded)
        checks: list[Check] = []
        for case, traced in reference.traces.items():
            checks += check_stages(backend, stages, traced, case, reference.tolerances(case, loaded.dtype))
        return checks

    def recorded(self, backend: str) -> list[Check]:
        """The recorded cases in fp32, from photo to tokens, and a few gradients."""
        loaded = load_backend(backend, FOLDER / "checkpoint", dtype="float32")
        checks: list[Check] = []
        for case in self.cases:
            checks += check_pixels(backend, case) + check_forward(loaded, case)
            checks += [] if case.name == FIVE_CROPS else check_greedy(loaded, case, ways=(True,))
        for case in self.cases:
            checks += check_gradients(loaded, case) if case.name in GRADIENTS else []
        return checks


def first_to_part(checks: list[Check]) -> dict[str, str]:
    """For each backend and dtype that fails: the first operation, in the order of the computation, that parts."""
    first: dict[str, str] = {}
    for check in checks:
        if not check.passed:
            first.setdefault(check.backend, f"{check.stage} ({check.where})" if check.where else check.stage)
    return first
