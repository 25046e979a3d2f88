"""Rows of data for a core, runs of it with all gradients, and comparisons of two runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem import tree
from rlmem.cores import MemoryCore

INPUT, OUTPUT = 6, 8
B, T = 3, 13

# Largest errors relative to the largest entry: of outputs and states, and of gradients.
TOLERANCE = {torch.float32: (2e-5, 1e-4), torch.float64: (1e-10, 1e-10)}


def require(condition: Any, message: str) -> None:
    """Raise an AssertionError with `message` unless `condition` is true."""
    if not condition:
        raise AssertionError(message)


class Data(NamedTuple):
    """Rows for a core, with states that are not initial states."""

    x: Tensor
    state: Any
    start: Tensor


def some_starts(device: str | torch.device, time: int = T) -> Tensor:
    """Start flags [B, time]: neighbouring starts, no starts, and a start at the last step."""
    start = torch.zeros(B, time, dtype=torch.bool)
    for row, at in ((0, 0), (0, 5), (0, 6), (2, 3), (2, time - 1)):
        if at < time:
            start[row, at] = True
    return start.to(device)


def data(core: MemoryCore[Any], time: int = T) -> Data:
    """Inputs [B, time, I], warm states, starts."""
    anchor = core._anchor
    x = torch.randn(B, time, core.input_size, device=anchor.device, dtype=anchor.dtype)
    return Data(x, warm_state(core, B), some_starts(x.device, time))


def warm_state(core: MemoryCore[Any], rows: int) -> Any:
    """States of `rows` rows after five random inputs."""
    x = torch.randn(rows, 5, core.input_size, device=core._anchor.device, dtype=core._anchor.dtype)
    state = core.initial_state(rows)
    with torch.no_grad():
        for t in range(5):
            _, state = core.update(x[:, t], state)
    return state


def fold(core: MemoryCore[Any], x: Tensor, state: Any, start: Tensor) -> tuple[Tensor, Any]:
    """A loop over `step` (a fold), whose results `scan` must equal."""
    outputs = []
    for t in range(x.shape[1]):
        y, state = core.step(x[:, t], state, start[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def scan(core: MemoryCore[Any], x: Tensor, state: Any, start: Tensor) -> tuple[Tensor, Any]:
    """`core.scan` with the signature of `fold`."""
    return core.scan(x, state, start)


def learnable(leaf: Tensor) -> bool:
    """Whether a leaf of a state has gradients (counters and masks have none)."""
    return leaf.is_floating_point() or leaf.is_complex()


def fresh(state: Any) -> Any:
    """A detached copy of `state` whose tensors require gradients."""
    return tree.map(lambda leaf: leaf.detach().clone().requires_grad_(learnable(leaf)), state)


def rows(state: Any, which: slice | int | Tensor) -> Any:
    """The rows `which` of every leaf."""
    return tree.map(lambda leaf: leaf[which], state)


class Run(NamedTuple):
    """Outputs, final state, and the gradients of a weighted sum of both."""

    y: Tensor
    state: Any
    grad_x: Tensor
    grad_state: list[Tensor]
    grad_params: dict[str, Tensor]


def weighted(leaf: Tensor) -> Tensor:
    """A sum with a different weight for every entry."""
    real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    weight = torch.linspace(-1.0, 1.3, real.numel(), device=real.device, dtype=real.dtype)
    return (real * weight.reshape(real.shape)).sum()


def run(how: Callable[..., tuple[Tensor, Any]], core: MemoryCore[Any], given: Data) -> Run:
    """Run `how(core, x, state, start)` on `given` and differentiate the result."""
    x, state = given.x.detach().clone().requires_grad_(), fresh(given.state)
    y, final = how(core, x, state, given.start)
    loss = weighted(y) + sum(weighted(leaf) for leaf in tree.leaves(final) if learnable(leaf))
    params = dict(core.named_parameters())
    firsts = [leaf for leaf in tree.leaves(state) if learnable(leaf)]
    grads = torch.autograd.grad(
        loss, [x, *firsts, *params.values()], allow_unused=True, materialize_grads=True
    )
    return Run(
        y=y.detach(),
        state=tree.map(lambda leaf: leaf.detach(), final),
        grad_x=grads[0],
        grad_state=list(grads[1 : 1 + len(firsts)]),
        grad_params=dict(zip(params, grads[1 + len(firsts) :], strict=True)),
    )


def close(got: Tensor, want: Tensor, tolerance: float, what: str, floor: float = 1.0) -> None:
    """Fail if |got - want| exceeds `tolerance` times the largest entry (at least `floor`)."""
    require(got.shape == want.shape, f"{what}: {tuple(got.shape)} is not {tuple(want.shape)}")
    require(got.dtype == want.dtype, f"{what}: {got.dtype} is not {want.dtype}")
    if want.numel() == 0:
        return
    if not learnable(want):
        require(torch.equal(got, want), f"{what} differ")
        return
    limit = tolerance * max(floor, want.abs().max().item())
    error = (got - want).abs().max().item()
    # In this form a NaN fails.
    require(error <= limit, f"{what}: off by {error:.2e}, allowed {limit:.2e}")


def states_close(got: Any, want: Any, tolerance: float) -> None:
    """`close` on every leaf."""
    for i, (a, b) in enumerate(zip(tree.leaves(got), tree.leaves(want), strict=True)):
        close(a, b, tolerance, f"state leaf {i}")


def runs_close(got: Run, want: Run, dtype: torch.dtype) -> None:
    """Outputs, states and all gradients of two runs agree."""
    value, grad = TOLERANCE[dtype]
    close(got.y, want.y, value, "outputs")
    states_close(got.state, want.state, value)
    gradients_close(got, want, grad)


def gradients_close(got: Run, want: Run, tolerance: float) -> None:
    """All gradients of two runs agree, relative to the largest entry of each."""
    # If large terms of a gradient cancel, its rounding error is relative to these terms.
    floor = 1e-2 * max((g.abs().max().item() for g in want.grad_params.values()), default=1.0)
    close(got.grad_x, want.grad_x, tolerance, "gradient of x", floor)
    for i, (a, b) in enumerate(zip(got.grad_state, want.grad_state, strict=True)):
        close(a, b, tolerance, f"gradient of state leaf {i}", floor)
    for key, b in want.grad_params.items():
        close(got.grad_params[key], b, tolerance, f"gradient of {key}", floor)


def identical(got: Any, want: Any, what: str) -> None:
    """Fail if two trees differ in any bit, or contain a NaN."""
    for a, b in zip(tree.leaves(got), tree.leaves(want), strict=True):
        require(torch.equal(a, b), f"{what} differ")
