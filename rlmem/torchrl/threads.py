"""torchrl's batched environments and the number of torch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keep_threads() -> Iterator[None]:
    """Give back, at the end, the number of threads that torch had at the beginning.

    A `ParallelEnv` that opens takes a thread from this process for each of its workers, and a
    `SerialEnv` or `ParallelEnv` that closes adds as many as it had environments: what runs after it
    has another number than before, which slows small tensors. Also a decorator.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
