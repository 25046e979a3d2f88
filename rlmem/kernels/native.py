"""What all kernels in C share: the built module, threads to run it on, and memory to write to."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils import deterministic

__all__ = ["AVAILABLE", "cuts", "empty", "ffi", "lib", "readable", "release", "run"]

try:
    from rlmem.kernels._c import ffi, lib
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

# Writing to memory for the first time takes several times as long as writing to it again: a fault
# for each page, and its zeroing. So results of `LARGE` bytes or more use blocks that were used
# before, of which at most `KEPT` bytes and `BLOCKS` blocks are kept. A block comes back whenever a
# tensor dies, in any thread, in the midst of anything: so only what is atomic is done to the list.
LARGE, KEPT, BLOCKS = 2**18, 2**30, 32
_idle: list[Tensor] = []

SERIAL_BELOW = 2**18  # elements; less is done before a second thread has woken
SHARES = 4  # per thread, so that uneven ones still end together
NARROWEST = 256  # bytes of channels in a share; threads never write to the same cache line


def cuts(shape: torch.Size, itemsize: int) -> tuple[int, int]:
    """Into how many parts the rows are cut for the threads, and into how many the channels."""
    rows, _, channels = shape
    threads = torch.get_num_threads()
    if threads == 1 or shape.numel() < SERIAL_BELOW:
        return 1, 1
    wanted = SHARES * threads
    row_cuts = min(rows, wanted)
    return row_cuts, max(1, min(channels * itemsize // NARROWEST, -(-wanted // row_cuts)))


def readable(x: Tensor) -> Tensor:
    """`x` with stride 1 over channels; any stride over batch and time will do."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def run(work: Callable[[], object], threads: int) -> None:
    """`work()` in this thread and others, which share it among them; C runs without the GIL.

    A thread that has not woken by the time this one finds nothing left to do is not waited for.
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
    # A forked child has the pool's object but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor with nothing in it yet."""
    size = shape.numel() * dtype.itemsize
    if not LARGE <= size <= KEPT or _poisons():
        return _fresh(shape, dtype)
    block = _take(size)
    buffer = memoryview(block.numpy())  # type: ignore[arg-type]
    # The tensor's storage holds the buffer; when that is gone the block can serve again.
    weakref.finalize(buffer, _give, block).atexit = False
    return torch.frombuffer(buffer, dtype=dtype, count=shape.numel()).view(shape)


def release() -> None:
    """Gives the memory kept for later results back to the operating system."""
    _idle.clear()


def _take(size: int) -> Tensor:
    """A block of at least `size` bytes and not much more."""
    for _ in range(len(_idle)):
        try:
            block = _idle.pop(0)
        except IndexError:  # another thread was faster
            break
        if size <= block.nbytes <= size + size // 8:
            return block
        _idle.append(block)
    return _fresh(torch.Size([size]), torch.uint8)


def _give(block: Tensor) -> None:
    _idle.append(block)
    while len(_idle) > BLOCKS or sum(kept.nbytes for kept in list(_idle)) > KEPT:
        del _idle[:1]


def _fresh(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    x = torch.empty(shape, dtype=dtype, device="cpu")
    if x.nbytes >= LARGE:
        lib.rlmem_large(x.data_ptr(), x.nbytes)
    return x


def _poisons() -> bool:
    """Whether torch fills what it returns as empty, to show who reads it."""
    fills: bool = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return fills and torch.are_deterministic_algorithms_enabled()
