"""Seeds of environments: training and evaluation seeds are disjoint by construction."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from rlmem.errors import UsageError

# Seeds are below 2^31, the limit of simulators with a C interface.
SEED_BITS = 31


def train_seeds(seed: int, n: int, used: int = 0) -> list[int]:
    """`n` different even seeds for the training environments of the run `seed`.

    They come after the first `used` ones, which earlier parts of a resumed run had.
    """
    return _seeds(seed, used + n, odd=0)[used:]


def eval_seeds(seed: int, n: int) -> list[int]:
    """`n` different odd seeds for evaluating the run `seed`; no run trains on any of them.

    The first k of them are `eval_seeds(seed, k)`.
    """
    return _seeds(seed, n, odd=1)


def _seeds(seed: int, n: int, odd: int) -> list[int]:
    """The first `n` different numbers of a stream that depends on `seed` and `odd` only.

    They are hashed: with `seed + i`, runs of neighbouring seeds would share nearly all seeds.
    """
    if seed < 0 or n < 0:
        raise UsageError(f"seed and number of seeds must not be negative, not {seed} and {n}")
    if n > 1 << (SEED_BITS - 1):
        raise UsageError(f"there are {1 << (SEED_BITS - 1)} seeds, and {n} were asked for")
    sequence = np.random.SeedSequence(seed, spawn_key=(odd,))
    drawn, found = n, list[int]()
    while len(found) < n:
        drawn = 2 * drawn
        words = sequence.generate_state(drawn, np.uint32) >> (32 - SEED_BITS)
        found = list(dict.fromkeys((words & ~np.uint32(1) | np.uint32(odd)).tolist()))
    return found[:n]


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the global random generators of Python, NumPy and torch's CPU after the block."""
    python, numpy, ours = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(ours)
