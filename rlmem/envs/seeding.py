"""Seeds of environments: what is evaluated on was never trained on, by construction."""

from __future__ import annotations

import numpy as np

from rlmem.errors import UsageError

# Below 2^31, which is as much as simulators with a C interface take.
SEED_BITS = 31


def train_seeds(seed: int, n: int) -> list[int]:
    """`n` different even seeds of the run `seed`, one for each training environment."""
    return _seeds(seed, n, odd=0)


def eval_seeds(seed: int, n: int) -> list[int]:
    """`n` different odd seeds of the run `seed`, so that no run ever trained on one of them.

    The first k of them are `eval_seeds(seed, k)`.
    """
    return _seeds(seed, n, odd=1)


def _seeds(seed: int, n: int, odd: int) -> list[int]:
    """The first `n` different numbers of a stream that depends on `seed` and `odd` only.

    A hash and not `seed + i`: runs with neighbouring seeds would share nearly all environments.
    """
    if seed < 0 or n < 0:
        raise UsageError(f"seed and number of seeds must not be negative, not {seed} and {n}")
    sequence = np.random.SeedSequence(seed, spawn_key=(odd,))
    drawn, found = n, list[int]()
    while len(found) < n:
        drawn = 2 * drawn
        words = sequence.generate_state(drawn, np.uint32) >> (32 - SEED_BITS)
        found = list(dict.fromkeys((words & ~np.uint32(1) | np.uint32(odd)).tolist()))
    return found[:n]
