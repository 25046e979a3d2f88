"""Random correct calls of `step` and `scan` of every core, for `fuzz_kernels`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from fuzz_cases import Case, Tensors

from rlmem import cores, tree

HALF = (torch.float16, torch.bfloat16)


def core_call(name: str, method: str, rng: Random) -> Case:
    """A call with a state that is not initial; the definition is `step` in a loop, in float64."""
    B, T, I = rng.sample([2, 3, 5, 6, 7], 3)  # noqa: E741
    core = cores.make(name, input_size=I, output_size=8).eval()
    lead = (B,) if method == "step" else (B, T)
    with torch.no_grad():
        before = torch.randn(B, 4, I), core.initial_state(B), torch.rand(B, 4) < 0.3
        _, state = core.scan(*before)
    leaves = list(tree.leaves(state))
    tensors = {"x": torch.randn(*lead, I), "start": torch.rand(lead) < 0.3}
    tensors |= {f"state{i}": leaf for i, leaf in enumerate(leaves)}

    def arguments(given: Tensors) -> tuple[Any, Any, Any]:
        parts = iter([given[f"state{i}"] for i in range(len(leaves))])
        return given["x"], tree.map(lambda _: next(parts), state), given["start"]

    def run(given: Tensors) -> Any:
        y, after = getattr(core, method)(*arguments(given))
        return [y, *tree.leaves(after)]

    exact = copy.deepcopy(core).double()

    def reference(given: Tensors) -> Any:
        x, memory, start = arguments(given)
        row = x[:, None] if method == "step" else x
        outputs = []
        for t, starts in enumerate(start.view(B, -1).unbind(1)):
            y, memory = exact.step(row[:, t], memory, starts)
            outputs.append(y)
        y = torch.stack(outputs, 1)
        return [y[:, 0] if method == "step" else y, *tree.leaves(memory)]

    return Case(run, reference, tensors, dtypes=HALF)


CORES: dict[str, Callable[[Random], Case]] = {
    f"{name}.{method}": partial(core_call, name, method)
    for name in cores.names()
    for method in ("step", "scan")
}
