"""Shared parts of the kernels in C: the built module, a thread pool, memory for results."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils import deterministic

__all__ = ["AVAILABLE", "empty", "ffi", "lib", "release", "run", "unit_stride", "work_splits"]

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
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


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
