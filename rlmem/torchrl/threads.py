"""Protects torch's number of threads from torchrl's batched environments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keep_threads() -> Iterator[None]:
    """Restores torch's number of threads at the end of the block; also a decorator.

    A `ParallelEnv` takes one thread per worker from this process when it opens, and a `SerialEnv`
    or `ParallelEnv` adds one per environment when it closes. The number afterwards differs from
    that before, and too many threads slow down operations on small tensors.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
