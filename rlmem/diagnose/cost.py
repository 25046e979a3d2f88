"""Costs of a core: time of a step, time of a scan, size of the state, parameters.

Cores are compared at nearly equal numbers of parameters: the width is chosen for each.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch

from rlmem import cores, tree

PARAMETERS = 50_000
ROWS, STEPS = 16, 256
WIDTHS = range(8, 513, 8)
REPEATS = 7


class Cost(NamedTuple):
    """Width, parameters, bytes of the state of one row, microseconds of a step of one row, and
    nanoseconds of a scan, forward and backward, per entry of its input.
    """

    width: int
    parameters: int
    state_bytes: int
    step_us: float
    scan_ns: float


def width_for(core: str, parameters: int = PARAMETERS, **options: Any) -> int:
    """The width in `WIDTHS` at which `core` has the nearest number of parameters."""

    def counted(width: int) -> int:
        return count(core, width, **options)

    above = bisect_left(WIDTHS, parameters, hi=len(WIDTHS) - 1, key=counted)
    candidates = WIDTHS[max(above - 1, 0) : above + 1]
    return min(candidates, key=lambda width: abs(counted(width) - parameters))


def count(core: str, width: int, **options: Any) -> int:
    """The number of parameters of a core at this width."""
    made = cores.make(core, input_size=width, **options)
    return sum(parameter.numel() for parameter in made.parameters())


def cost(core: str, parameters: int = PARAMETERS, **options: Any) -> Cost:
    """Measure a core on this machine, in one thread of torch."""
    width = width_for(core, parameters, **options)
    made = cores.make(core, input_size=width, **options)
    state = made.initial_state(1)
    x, start = torch.randn(ROWS, STEPS, width), torch.zeros(ROWS, STEPS, dtype=torch.bool)
    start[:, 0] = True

    def step() -> None:
        with torch.no_grad():
            made.step(x[:1, 0], state, start[:1, 1])

    def scan() -> None:
        y, _ = made.scan(x.requires_grad_(), made.initial_state(ROWS), start)
        y.sum().backward()

    return Cost(
        width,
        count(core, width, **options),
        sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(state)),
        1e6 * _seconds(step, 100),
        1e9 * _seconds(scan, 1) / x.numel(),
    )


def _seconds(call: Callable[[], None], times: int) -> float:
    """The median time of a call."""
    call()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        for _ in range(times):
            call()
        found.append((time.perf_counter() - begun) / times)
    return median(found)
