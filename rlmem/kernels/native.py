"""Shared parts of the operators: checks of arguments, the built C module, threads, memory.

A kernel in C or Triton trusts shapes, dtypes and strides: a wrong one would read other memory. So
every argument is checked before any number is read.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import deterministic

__all__ = [
    "AVAILABLE",
    "FLOATS",
    "Wanted",
    "check",
    "check_shapes",
    "check_tensors",
    "contiguous",
    "empty",
    "ffi",
    "lib",
    "plain",
    "release",
    "run",
    "same_dtype",
    "unit_stride",
    "widen",
    "work_splits",
]

FLOATS = (torch.float32, torch.float64, torch.bfloat16)
DEVICES = ("cpu", "cuda", "meta")
# Arguments with these names have one dtype in every operator.
FIXED = {"start": torch.bool, "alive": torch.bool, "age": torch.int64}

T = TypeVar("T", Tensor, Tensor | None)
# Arguments by name, with the shapes that they must have. (beartype checks the first entry of a
# collection, but a random one of a sequence, which cannot be traced.)
Wanted = Mapping[str, tuple[Tensor | None, Collection[int]]]

try:
    from rlmem.kernels._c import ffi, lib
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

# The first write to memory takes several times as long as a later one: each page faults and is
# zeroed. So results of `LARGE` bytes or more reuse old blocks; at most `MAX_KEPT_BYTES` bytes in
# `MAX_KEPT_BLOCKS` blocks are kept. A block returns when its tensor dies, which may happen in any
# thread and between any two instructions: use only atomic operations on the list.
LARGE, MAX_KEPT_BYTES, MAX_KEPT_BLOCKS = 2**18, 2**30, 32
_idle: list[Tensor] = []

SERIAL_BELOW = 2**18  # elements; with fewer, one thread ends before a second one wakes
ITEMS_PER_THREAD = 4  # work items; several per thread even out their durations
MIN_SPLIT_BYTES = 256  # bytes of channels in a work item; threads never write to one cache line


def work_splits(shape: torch.Size, itemsize: int) -> tuple[int, int]:
    """The number of parts to split the rows into for the threads, and the same for the channels."""
    rows, _, channels = shape
    threads = torch.get_num_threads()
    if threads == 1 or shape.numel() < SERIAL_BELOW:
        return 1, 1
    items = ITEMS_PER_THREAD * threads
    row_splits = min(rows, items)
    return row_splits, max(1, min(channels * itemsize // MIN_SPLIT_BYTES, -(-items // row_splits)))


def unit_stride(x: Tensor) -> Tensor:
    """`x` with stride 1 over channels; batch and time may have any stride."""
    x = plain(x)
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def contiguous(x: Tensor | None) -> Tensor | None:
    """`x` without gaps between its numbers; None stays None."""
    return None if x is None else plain(x).contiguous()


def run(work: Callable[[], object], threads: int) -> None:
    """Run `work()` in this thread and in others at once; C runs without the GIL.

    `work` takes work items until none are left. Threads that have not started then are cancelled.
    """
    others = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for other in others:
            if not other.cancel():
                other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rlmem")


if hasattr(os, "register_at_fork"):
    # A forked child inherits the pool object but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor with undefined contents."""
    size = shape.numel() * dtype.itemsize
    if not LARGE <= size <= MAX_KEPT_BYTES or _fills_with_nan():
        return _allocate(shape, dtype)
    block = _take_block(size)
    buffer = memoryview(block.numpy())  # type: ignore[arg-type]
    # The tensor's storage holds the buffer; when the buffer is freed, the block can be reused.
    weakref.finalize(buffer, _return_block, block).atexit = False
    return torch.frombuffer(buffer, dtype=dtype, count=shape.numel()).view(shape)


def release() -> None:
    """Return the memory kept for later results to the operating system."""
    _idle.clear()


def _take_block(size: int) -> Tensor:
    """A block of `size` bytes, or at most an eighth more."""
    for _ in range(len(_idle)):
        try:
            block = _idle.pop(0)
        except IndexError:  # another thread was faster
            break
        if size <= block.nbytes <= size + size // 8:
            return block
        _idle.append(block)
    return _allocate(torch.Size([size]), torch.uint8)


def _return_block(block: Tensor) -> None:
    _idle.append(block)
    while len(_idle) > MAX_KEPT_BLOCKS or sum(kept.nbytes for kept in list(_idle)) > MAX_KEPT_BYTES:
        del _idle[:1]


def _allocate(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    x = torch.empty(shape, dtype=dtype, device="cpu")
    if x.nbytes >= LARGE:
        lib.rlmem_use_large_pages(x.data_ptr(), x.nbytes)
    return x


def _fills_with_nan() -> bool:
    """Whether torch fills empty tensors with NaN, which reveals reads of uninitialised memory."""
    fills: bool = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return fills and torch.are_deterministic_algorithms_enabled()


def check(
    operator: str,
    wanted: Wanted,
    dtypes: Collection[torch.dtype] = FLOATS,
    devices: Collection[str] = DEVICES,
) -> None:
    """`check_tensors`, then `check_shapes`."""
    check_tensors(operator, {name: x for name, (x, _) in wanted.items()}, dtypes, devices)
    check_shapes(operator, wanted)


def check_shapes(operator: str, wanted: Wanted) -> None:
    """Raise `ValueError` unless each tensor has the shape next to it."""
    for name, (x, shape) in wanted.items():
        if x is not None and x.shape != tuple(shape):
            raise ValueError(f"{operator}: {name} must be {list(shape)}, not {list(x.shape)}")


def check_tensors(
    operator: str,
    tensors: Mapping[str, Tensor | None],
    dtypes: Collection[torch.dtype] = FLOATS,
    devices: Collection[str] = DEVICES,
    required: Collection[str] = (),
) -> None:
    """Raise `ValueError` unless all are dense tensors of one of `dtypes`, on one of `devices`.

    Dense means strided: not sparse, nested or quantised. Strides may have any values. None stands
    for an argument that was not given, and is not one of `required`.
    """
    found = {}
    for name, x in tensors.items():
        if x is None and name not in required:
            continue
        if not isinstance(x, Tensor):
            raise ValueError(f"{operator}: {name} must be a tensor, not {type(x).__name__}")
        # Traced tensors are dense.
        if not torch.compiler.is_compiling() and (x.layout is not torch.strided or x.is_nested):
            layout = "nested" if x.is_nested else x.layout
            raise ValueError(f"{operator}: {name} must be a dense tensor, not {layout}")
        if name in FIXED:
            if x.dtype is not FIXED[name]:
                raise ValueError(f"{operator}: {name} must be {FIXED[name]}, not {x.dtype}")
        elif x.dtype not in dtypes:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{operator}: {name} is {x.dtype}; allowed are {allowed}")
        found[name] = x.device
    if len(set(found.values())) > 1:
        devices_found = {name: str(device) for name, device in found.items()}
        raise ValueError(f"{operator}: all tensors must be on one device, not {devices_found}")
    for device in found.values():
        if device.type not in devices:
            raise ValueError(
                f"{operator}: device {device} is not supported; allowed are {', '.join(devices)}"
            )


def same_dtype(x: Tensor, dtypes: Collection[torch.dtype]) -> Collection[torch.dtype]:
    """The dtype of `x` alone, if it is one of `dtypes`; else all of these."""
    return [x.dtype] if isinstance(x, Tensor) and x.dtype in dtypes else dtypes


def widen(x: T) -> T:
    """`x`; under autocast float32 instead of float16, whose range a recurrence soon exceeds."""
    if not isinstance(x, Tensor) or x.dtype is not torch.float16:
        return x
    return x.float() if torch.is_autocast_enabled(x.device.type) else x


def plain(x: Tensor) -> Tensor:
    """`x` with its numbers in memory: torch stores some conjugates and negatives as a flag."""
    return x.resolve_conj().resolve_neg()
