"""A stand-in for a GPU on the CPU, which counts the waits for the device.

Inside `Device()` tensors on "cuda" exist on any machine: they are wrappers of tensors on the CPU,
and every operation on one runs on the CPU. So the path of a GPU runs, Triton aside, and

- an operation that waits for the device (reads a value, has a shape that depends on values, copies
  between host and device) is counted with the line of the package that called it
  (`x[mask] = 1.0` counts, though a GPU fills without a wait: write `masked_fill_`);
- an operation that mixes tensors of both devices is an error, as it is on a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rlmem

ROOT = Path(rlmem.__file__).parents[1]
CUDA = torch.device("cuda", 7)  # no device of a real machine: constants are kept by device
aten = torch.ops.aten
# Their values, or the sizes of their results, are read by the host.
READS = {
    "_local_scalar_dense",
    "equal",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
    "linalg_eigh",
    "linalg_solve",
    "linalg_inv",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class FarTensor(torch.Tensor):
    """A tensor that seems to be on the device; `near` holds its values on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        # "meta" for C++: the engine of autograd has no queue for an absent GPU.
        made: FarTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device="meta",
        )
        made.near = near
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device that the tensor seems to be on."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """True, as on the device."""
        return True

    def __repr__(self, **_: Any) -> str:
        return f"far {self.near}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of Device()")


class Constants(TorchFunctionMode):
    """Makes tensors of Python's numbers on the host, then copies them to the device.

    torch would ask for the device before any dispatch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], FarTensor):
            return args[0].cpu().tolist()
        if func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return func(*args, **kwargs)
        device = torch.device(kwargs.pop("device", None) or "cpu")
        if func is Tensor.new_tensor:
            like, *args = args
            device, func = like.device, torch.tensor
            kwargs.setdefault("dtype", like.dtype)
        made = func(*args, **kwargs)
        return made if device.type == "cpu" or isinstance(made, FarTensor) else made.to(device)


class Device(TorchDispatchMode):
    """The stand-in; `waits` counts (operation, "file:line") of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self._constants = Constants()
        self._patches = [
            mock.patch("torch.cuda._lazy_init"),
            mock.patch("torch.cuda.synchronize", side_effect=self._synchronized),
        ]

    def __enter__(self) -> Device:
        if torch.cuda.is_available():
            torch.cuda.init()
        for patch in self._patches:
            patch.start()
        self._constants.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._constants.__exit__(*error)
        for patch in self._patches:
            patch.stop()

    def table(self) -> str:
        """One line for each operation and place, the most frequent first."""
        return "\n".join(
            f"{count:5} {name:22} {place}" for (name, place), count in self.waits.most_common()
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat: list[Tensor] = []
        near_args, near_kwargs = each_tensor((args, kwargs), lambda x: near_of(x, flat))
        far = [x for x in flat if isinstance(x, FarTensor)]
        device = kwargs.get("device")
        goes_far = device is not None and torch.device(device).type != "cpu"
        if not far and not goes_far:
            return func(*args, **kwargs)
        name = func.name().split("::")[1].split(".")[0]
        stays = self._count(name, args, kwargs, flat, bool(far), goes_far)
        if device is not None:
            near_kwargs["device"] = torch.device("cpu")
        out = func(*near_args, **near_kwargs)
        if not stays:
            return out
        # An operation in place returns its own argument.
        wrapped = {id(x.near): x for x in far}
        return each_tensor(out, lambda x: wrapped[id(x)] if id(x) in wrapped else FarTensor(x))

    def _count(
        self, name: str, args: Any, kwargs: Any, flat: list[Tensor], far: bool, goes_far: bool
    ) -> bool:
        """Count the waits of an operation; returns whether its result is on the device."""
        host = [x for x in flat if not isinstance(x, FarTensor)]
        if name == "_to_copy":
            if far and not goes_far and kwargs.get("device") is not None:
                # One without waiting needs a `synchronize` later.
                if not kwargs.get("non_blocking"):
                    self._wait("copy to the host")
                return False
            if not far:
                self._sent(kwargs.get("non_blocking", False))
            return True
        if name == "copy_":
            into, source = args[0], args[1]
            if isinstance(into, FarTensor) != isinstance(source, FarTensor) and source.dim():
                self._wait("copy_ across devices")
            return isinstance(into, FarTensor)
        if name in INDEXING:
            index = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in index):
                self._wait(f"{name} by a mask")
            if any(not isinstance(x, FarTensor) for x in index):
                self._wait(f"{name} by an index of the host")
            return isinstance(args[0], FarTensor)
        if name in READS and not (name == "repeat_interleave" and kwargs.get("output_size")):
            self._wait(name)
        elif far and any(x.dim() for x in host):
            raise RuntimeError(f"{name} mixes tensors of two devices, at {caller()}")
        return True

    def _synchronized(self, *_: Any) -> None:
        self._wait("synchronize")

    def _sent(self, non_blocking: bool) -> None:
        if not non_blocking:
            self._wait("copy to the device")

    def _wait(self, name: str) -> None:
        self.waits[name, caller()] += 1


def each_tensor(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """`value`, with all tensors in its lists, tuples and dicts changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([each_tensor(each, change) for each in value])
    if isinstance(value, dict):
        return {key: each_tensor(each, change) for key, each in value.items()}
    return value


def near_of(x: Tensor, seen: list[Tensor]) -> Tensor:
    """The values of `x` on the CPU; notes `x` in `seen`."""
    seen.append(x)
    return x.near if isinstance(x, FarTensor) else x


def caller() -> str:
    """The innermost line of the package that is running."""
    frame: Any = sys._getframe(1)
    package = str(ROOT / "rlmem")
    while frame is not None and not frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
    if frame is None:
        return "outside of the package"
    path = Path(frame.f_code.co_filename).relative_to(ROOT).as_posix()
    return f"{path}:{frame.f_lineno}"
