"""Laws about half precision: products in float16 or bfloat16, states and recurrences in float32."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from rlmem import tree
from rlmem.errors import UsageError
from rlmem.testing.law import Subject, law
from rlmem.testing.row_laws import BOTH
from rlmem.testing.rows import (
    Data,
    Run,
    data,
    learnable,
    require,
    run,
    scan,
    states_close,
)

HALVES = (torch.float16, torch.bfloat16)
# Largest relative errors (2-norm) of outputs and states, and of gradients.
TOLERANCE = {torch.float16: (1e-2, 0.1), torch.bfloat16: (5e-2, 0.3)}


def relative_error(got: list[Tensor], want: list[Tensor]) -> float:
    """The 2-norm of the difference of two lists of tensors, relative to that of the second."""

    def flat(tensors: list[Tensor]) -> Tensor:
        real = (torch.view_as_real(x) if x.is_complex() else x for x in tensors)
        # The initial state of some cores is infinite.
        return torch.cat([x.double().flatten().nan_to_num(posinf=1.0, neginf=1.0) for x in real])

    difference = flat(got) - flat(want)
    return (difference.norm() / flat(want).norm().clamp(min=1e-30)).item()


@law(source=("autocast", "parameters"), dtype=HALVES)
def results_in_half_precision_are_near_those_in_float32(
    subject: Subject, source: str, dtype: torch.dtype
) -> None:
    core = subject.make()
    given = data(core)
    half, inputs = core, given
    if source == "parameters":
        half, inputs = copy.deepcopy(core).to(dtype), _narrowed(given, dtype)
        # The reference has the same, rounded parameters and inputs.
        core, given = copy.deepcopy(half).float(), _narrowed(inputs, torch.float32)
    want, dtypes = run(scan, core, given), []
    for how in BOTH:
        with torch.autocast(subject.device, dtype) if source == "autocast" else nullcontext():
            got = run(how, half, inputs)
        _near(got, want, dtype, core.smooth)
        dtypes.append(got.y.dtype)
        for leaf, other in zip(tree.leaves(got.state), tree.leaves(want.state), strict=True):
            require(leaf.dtype == other.dtype, f"a leaf of the state is {leaf.dtype}")
    require(dtypes[0] == dtypes[1], f"outputs of scan are {dtypes[0]}, of step {dtypes[1]}")
    if source == "parameters":
        require(dtypes[0] == dtype, f"outputs are {dtypes[0]}")
        require(all(g.dtype == dtype for g in got.grad_params.values()), "a gradient's dtype")


@law(dtype=HALVES)
def half_precision_inputs_are_read_in_float32(subject: Subject, dtype: torch.dtype) -> None:
    core = subject.make()
    given = _narrowed(data(core), dtype)
    with torch.no_grad():
        for how in BOTH:
            _same_rounding(how(core, *given), how(core, *_narrowed(given, torch.float32)))


@law()
def float32_inputs_are_read_by_half_precision_parameters(subject: Subject) -> None:
    core = subject.make().bfloat16()
    given = data(core)
    with torch.no_grad():
        wide = core.scan(given.x.float(), *given[1:])
        _same_rounding(core.scan(*given), wide)


@law()
def autocast_of_the_caller_wins_over_the_parameters(subject: Subject) -> None:
    core = subject.make().bfloat16()
    given = data(core)
    wide = copy.deepcopy(core).float()
    with torch.no_grad(), torch.autocast(subject.device, torch.float16):
        y, state = core.scan(*given)
        want, other = wide.scan(*_narrowed(given, torch.float32))
    require(y.dtype == torch.bfloat16, f"outputs are {y.dtype}")
    error = relative_error([y], [want])
    require(error < 1e-2, f"outputs are off by {error:.1e} of their norm")
    states_close(state, other, 1e-3)


@law()
def float64_and_integers_are_not_mixed_with_float32(subject: Subject) -> None:
    for core, wrong in (
        (subject.make(), torch.float64),
        (subject.make(), torch.int64),
        (subject.make(torch.float64), torch.float32),
        (subject.make().bfloat16(), torch.float64),
    ):
        given = data(core, time=3)
        for method in BOTH:
            try:
                method(core, given.x.to(wrong), *given[1:])
            except UsageError as error:
                require(f"not {wrong}" in str(error), f"the error does not name {wrong}: {error}")
                continue
            raise AssertionError(f"{method.__name__} reads {wrong}")


def _same_rounding(got: tuple[Tensor, Any], want: tuple[Tensor, Any]) -> None:
    """Fail if outputs and states are further apart than sums of float32 in another order."""
    error = relative_error(list(tree.leaves(got)), list(tree.leaves(want)))
    require(error < 1e-5, f"inputs in half precision and in float32 differ by {error:.1e}")


def _narrowed(given: Data, dtype: torch.dtype) -> Data:
    return given._replace(x=given.x.to(dtype))


def _learnable_leaves(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(state) if learnable(leaf)]


def _near(got: Run, want: Run, dtype: torch.dtype, smooth: bool) -> None:
    """Fail if outputs, state or gradients (if `smooth`) are too far from those in float32."""
    value, gradient = TOLERANCE[dtype]
    errors = {"outputs": (relative_error([got.y], [want.y]), value)}
    states = _learnable_leaves(got.state), _learnable_leaves(want.state)
    if sum(leaf.numel() for leaf in states[1]):
        errors["states"] = relative_error(*states), value
    grads = [[each.grad_x, *each.grad_params.values()] for each in (got, want)]
    require(all(x.isfinite().all() for x in grads[0]), "a gradient is not finite")
    if smooth:
        errors["gradients"] = relative_error(*grads), gradient
    for what, (error, limit) in errors.items():
        require(error < limit, f"{what} are off by {error:.1e} of their norm, allowed {limit}")
