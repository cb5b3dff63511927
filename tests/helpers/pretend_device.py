"""A device that there is none of: torch computes on the CPU, and refuses what CUDA, or mps, would refuse.

Every storage has a label, the device or the CPU. An operation on both raises, but for what torch copies by itself; so does
numpy on what is on the device, and on mps fp64. What the host waits for is counted. Who asks `torch.cuda` is answered too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.utils.checkpoint
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

CPU, PINNED = "cpu", "pinned"
# Made by torch's own code, in C++, for what it does with other tensors: on the device of those, whichever it is.
ANY = "any"
# Whose result, or its shape, is known on the host only once the device has computed it.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2", "bincount",
    "repeat_interleave",
}  # fmt: skip
_FACTORIES = {
    "empty", "zeros", "ones", "full", "arange", "rand", "randn", "randint", "randperm", "tensor", "as_tensor", "linspace",
    "eye", "scalar_tensor", "empty_strided", "asarray", "tril_indices", "triu_indices",
}  # fmt: skip
_MIXING = {"where", "masked_fill", "masked_fill_", "fill_", "_fused_adamw_", "clamp"}  # also take a CPU's number
_READS = {"numpy", "__array__"}


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors of nested arguments or results."""
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


class Labels:
    """Where each storage is. waits: what the host waited for so far, by name."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device, 0)
        self.waits: Counter[str] = Counter()
        # The weak reference holds on to a storage's address, so that none that comes later is taken for it.
        self._places: dict[int, tuple[StorageWeakRef, str]] = {}

    def of(self, tensor: torch.Tensor) -> str:
        """A tensor's label; that of the meta device is its own."""
        if tensor.is_meta:
            return "meta"
        return self._places.get(tensor.untyped_storage()._cdata, (None, CPU))[1]

    def set(self, tensor: torch.Tensor, label: str) -> None:
        """Label what a tensor's numbers are stored in."""
        if tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        self._places[storage._cdata] = (StorageWeakRef(storage), label)
        if self.device.type == "mps" and label == "mps" and tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    def on_device(self, tree: Any) -> bool:
        """Whether some tensor is on the device."""
        return any(self.of(tensor) == self.device.type for tensor in tensors(tree))

    def wait(self, name: str) -> None:
        """Count one."""
        self.waits[name] += 1


class Operations(TorchDispatchMode):
    """Checks and labels what is computed."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, labels = kwargs or {}, func.overloadpacket.__name__, self.labels
        device, inputs = labels.device.type, list(tensors((args, kwargs)))
        found = [labels.of(tensor) for tensor in inputs]
        there = device in found
        if there:
            self._check(name, func, args, inputs, found)
        if there and (name in WAITS or _by_mask(name, args)):
            labels.wait(name)
        before = {tensor.untyped_storage()._cdata for tensor in inputs if not tensor.is_meta}
        result = func(*args, **kwargs)
        label = device if there else CPU if {CPU, PINNED} & set(found) else ANY
        for tensor in tensors(result):
            if not tensor.is_meta and tensor.untyped_storage()._cdata not in before:
                labels.set(tensor, label)
        return result

    def _check(self, name: str, func: Any, args: Any, inputs: list[torch.Tensor], found: list[str]) -> None:
        labels = self.labels
        for tensor, label in zip(inputs, found):
            if label == ANY:
                labels.set(tensor, labels.device.type)
        others = [tensor for tensor, label in zip(inputs, found) if label in (CPU, PINNED, "meta")]
        if not others:
            return
        if name == "copy_":
            if len(args) < 3 or not args[2] or PINNED not in found:
                labels.wait("copy_")
            return
        if name in ("index", "index_put", "index_put_", "_unsafe_index") and labels.of(args[0]) == labels.device.type:
            labels.wait("index from the CPU")
            return
        numbers = all(tensor.ndim == 0 and not tensor.is_meta for tensor in others)
        if numbers and (torch.Tag.pointwise in func.tags or name in _MIXING or name.startswith("_foreach")):
            return
        places = ", ".join(f"{label} {list(tensor.shape)}" for tensor, label in zip(inputs, found))
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {places}")


def _by_mask(name: str, args: Any) -> bool:
    return name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])


class Calls(TorchFunctionMode):
    """What Python asks of torch: where a tensor is or is to be made, and its numbers."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, labels = dict(kwargs or {}), getattr(func, "__name__", ""), self.labels
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        if name in _READS and labels.on_device(args):
            raise TypeError(f"can't convert {labels.device} device type tensor to numpy. Use Tensor.cpu() first")
        if name == "tolist" and labels.on_device(args):
            labels.wait(name)
        if name in ("to", "cpu", "cuda"):
            return self._moved(name, args, kwargs)
        if name == "pin_memory":
            if labels.device.type == "mps" or labels.on_device(args):
                raise RuntimeError("cannot pin this tensor")
            copy = args[0].clone()
            labels.set(copy, PINNED)
            return copy
        if name in ("__getitem__", "__setitem__") and labels.on_device(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list | np.ndarray) for i in index):
                labels.wait("index from the CPU")
        return self._made(name, func, args, kwargs)

    def _attribute(self, func: Any, args: Any, kwargs: Any) -> Any:
        of = getattr(func, "__self__", None)
        if of in (torch.Tensor.device, torch.Tensor.is_cuda, torch.Tensor.is_mps):
            label = self.labels.of(args[0])
            if of is torch.Tensor.device:
                return (
                    self.labels.device if label == self.labels.device.type else torch.device(label if label == "meta" else CPU)
                )
            return label == ("cuda" if of is torch.Tensor.is_cuda else "mps")
        return func(*args, **kwargs)

    def _made(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that may make a tensor: on the device that is asked for."""
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if asked is not None and asked.type == self.labels.device.type:
            kwargs["device"] = torch.device(CPU)
            if name in ("tensor", "as_tensor", "asarray"):
                self.labels.wait(name)
        result = func(*args, **kwargs)
        if asked is not None or name in _FACTORIES:
            label = CPU if asked is None else asked.type
            for tensor in tensors(result):
                if not any(tensor is other for other in tensors(args)):
                    self.labels.set(tensor, label)
        return result

    def _moved(self, name: str, args: Any, kwargs: Any) -> Any:
        tensor, labels = args[0], self.labels
        asked, dtype, non_blocking = _asked(name, args[1:], kwargs, self)
        before = labels.of(tensor)
        after = before if asked is None else asked
        if {before, after} & {"meta"} or (before == after and name != "to"):
            return tensor if before == after and dtype is None else tensor.to(after, dtype)
        here, there = labels.device.type == before, labels.device.type == after
        if here == there:
            return tensor.to(dtype=dtype or tensor.dtype, copy=kwargs.get("copy", False))
        if not (non_blocking and before == PINNED):
            if here and non_blocking:
                raise RuntimeError("a copy to the CPU that is not waited for may be read before it is there")
            labels.wait("to the CPU" if here else "to the device")
        moved = tensor.to(dtype=dtype or tensor.dtype, copy=True)
        labels.set(moved, after)
        return moved


def _asked(name: str, args: Any, kwargs: dict[str, Any], calls: Calls) -> tuple[str | None, torch.dtype | None, bool]:
    """Device, dtype and whether nobody waits, of `Tensor.to`, `cpu` or `cuda`."""
    if name != "to":
        return name, None, bool(kwargs.get("non_blocking", False))
    rest = {key: value for key, value in kwargs.items() if key not in ("copy", "memory_format")}
    other = next((arg for arg in (*args, rest.pop("other", None)) if isinstance(arg, torch.Tensor)), None)
    if other is not None:
        label = calls.labels.of(other)
        return (CPU if label in (PINNED, ANY) else label), other.dtype, bool(rest.get("non_blocking", False))
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **rest)
    return (None if device is None else device.type), dtype, non_blocking


@contextmanager
def pretended(device: str = "cuda") -> Iterator[Labels]:
    """torch has this device, "cuda" or "mps", within."""
    labels = Labels(device)
    calls, run = Calls(labels), torch.autograd.graph._engine_run_backward

    def backward(*args: Any, **kwargs: Any) -> Any:
        # What is computed again in a backward pass is Python, and `calls` is off within a call that it sees.
        active = calls in torch.overrides._get_current_function_mode_stack()
        with ExitStack() as stack:
            if not active:
                stack.enter_context(calls)
            return run(*args, **kwargs)

    with ExitStack() as stack:
        stack.callback(_modes())
        for module in (torch.autograd.graph, torch.autograd):
            stack.enter_context(mock.patch.object(module, "_engine_run_backward", backward))
        # The forward pass is seen without `calls`, and so on the CPU: what is computed again is compared by shape and dtype.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        stack.enter_context(mock.patch.dict(checks, default=lambda x: {"shape": x.shape, "dtype": x.dtype}))
        group = torch._C._group_tensors_by_device_and_dtype

        def grouped(lists: Any, with_indices: bool = False) -> Any:
            found = group(lists, with_indices)
            there = labels.device if labels.on_device(lists) else None
            return {(there or device, dtype): value for (device, dtype), value in found.items()}

        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", grouped))
        for place, name, value in _answers(device):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(Operations(labels))
        stack.enter_context(calls)
        yield labels


def _modes() -> Callable[[], None]:
    """What sets torch's modes as they are now: a model on CUDA changes them, and a CPU heeds some."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    before = cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled(), cuda.matmul.allow_tf32, cudnn.allow_tf32

    def restore() -> None:
        cuda.enable_flash_sdp(before[0])
        cuda.enable_cudnn_sdp(before[1])
        cuda.matmul.allow_tf32, cudnn.allow_tf32 = before[2:]

    return restore


def _answers(device: str) -> Iterator[tuple[Any, str, Any]]:
    """What stands in for functions of `torch.cuda` or `torch.mps`."""
    yield torch.cuda, "is_available", lambda: device == "cuda"
    yield torch.backends.mps, "is_available", lambda: device == "mps"
    if device == "mps":
        yield torch.mps, "get_rng_state", lambda: torch.get_rng_state()
        yield torch.mps, "set_rng_state", lambda state: torch.set_rng_state(state)
        yield torch.mps, "driver_allocated_memory", lambda: 10**9
        yield torch.mps, "empty_cache", lambda: None
        return
    yield torch.cuda, "device_count", lambda: 1
    yield torch.cuda, "is_bf16_supported", lambda including_emulation=True: True
    yield torch.cuda, "get_device_name", lambda device=None: "a pretended GPU"
    yield torch.cuda, "get_device_capability", lambda device=None: (9, 0)
    yield torch.cuda, "mem_get_info", lambda device=None: (70 * 10**9, 80 * 10**9)
    for name in ("max_memory_allocated", "memory_allocated"):
        yield torch.cuda, name, lambda device=None: 10**9
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "set_device"):
        yield torch.cuda, name, lambda device=None: None
