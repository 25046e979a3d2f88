"""Half precision in all cores: products in float16 or bfloat16, states and recurrences in float32.

It comes from autocast or from the parameters. `step` and `scan` follow one rule.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem import tree
from rlmem.errors import UsageError
from tests.cores.common import (
    B,
    Data,
    Run,
    data,
    every_core,
    every_device,
    fold,
    identical,
    learnable,
    make,
    run,
    scan,
    states_close,
)

FORMS = [
    ("autocast", torch.float16),
    ("autocast", torch.bfloat16),
    ("parameters", torch.bfloat16),
    ("parameters", torch.float16),
]
every_form = pytest.mark.parametrize(
    ("source", "dtype"), FORMS, ids=lambda x: str(x).removeprefix("torch.")
)
# Largest relative errors (2-norm) of outputs and states, and of gradients.
TOLERANCE = {torch.float16: (1e-2, 0.1), torch.bfloat16: (5e-2, 0.3)}
# Their norm divides by the length of a reading; at steps where it is tiny, gradients are huge and
# depend on the last bits of the products.
SHARP = {"deltanet"}


def relative_error(got: list[Tensor], want: list[Tensor]) -> float:
    """The 2-norm of the difference of two lists of tensors, relative to that of the second."""

    def flat(tensors: list[Tensor]) -> Tensor:
        real = (torch.view_as_real(x) if x.is_complex() else x for x in tensors)
        # The initial state of some cores is infinite.
        return torch.cat([x.double().flatten().nan_to_num(posinf=1.0, neginf=1.0) for x in real])

    difference = flat(got) - flat(want)
    return (difference.norm() / flat(want).norm().clamp(min=1e-30)).item()


def learnable_leaves(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(state) if learnable(leaf)]


def near(got: Run, want: Run, dtype: torch.dtype, sharp: bool) -> None:
    """Fail if outputs, state or gradients (unless `sharp`) are too far from those in float32."""
    value, gradient = TOLERANCE[dtype]
    assert relative_error([got.y], [want.y]) < value
    states = learnable_leaves(got.state), learnable_leaves(want.state)
    if sum(leaf.numel() for leaf in states[1]):
        assert relative_error(*states) < value
    grads = [[each.grad_x, *each.grad_params.values()] for each in (got, want)]
    assert all(x.isfinite().all() for x in grads[0])
    assert sharp or relative_error(*grads) < gradient


def narrowed(given: Data, dtype: torch.dtype) -> Data:
    return given._replace(x=given.x.to(dtype))


@every_core
@every_form
@every_device
def test_results_are_near_those_in_float32(name, source, dtype, device):
    core = make(name, device=device)
    given = data(core)
    half, inputs = core, given
    if source == "parameters":
        half, inputs = copy.deepcopy(core).to(dtype), narrowed(given, dtype)
        # The reference has the same, rounded parameters and inputs.
        core, given = copy.deepcopy(half).float(), narrowed(inputs, torch.float32)
    want, dtypes = run(scan, core, given), []
    for how in (scan, fold):
        with torch.autocast(device, dtype) if source == "autocast" else nullcontext():
            got = run(how, half, inputs)
        near(got, want, dtype, name in SHARP)
        dtypes.append(got.y.dtype)
        for leaf, other in zip(tree.leaves(got.state), tree.leaves(want.state), strict=True):
            assert leaf.dtype == other.dtype
    assert dtypes[0] == dtypes[1]
    if source == "parameters":
        assert dtypes[0] == dtype
        assert all(g.dtype == dtype for g in got.grad_params.values())


@every_core
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_inputs_are_read_in_float32(name, dtype):
    core = make(name)
    given = narrowed(data(core), dtype)
    with torch.no_grad():
        for how in (scan, fold):
            identical(
                how(core, *given),
                how(core, *narrowed(given, torch.float32)),
                "results of inputs in half precision and in float32",
            )


@every_core
def test_float32_inputs_are_read_by_half_precision_parameters(name):
    core = make(name).bfloat16()
    given = data(core)
    with torch.no_grad():
        wide = core.scan(given.x.float(), *given[1:])
        identical(wide, core.scan(*given), "results of inputs in float32 and in bfloat16")


@every_core
def test_autocast_of_the_caller_wins_over_the_parameters(name):
    core = make(name).bfloat16()
    given = data(core)
    wide = copy.deepcopy(core).float()
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        y, state = core.scan(*given)
        want, other = wide.scan(*narrowed(given, torch.float32))
    assert y.dtype == torch.bfloat16
    assert relative_error([y], [want]) < 1e-2
    states_close(state, other, 1e-3)


@every_core
def test_float64_and_integers_are_not_mixed_with_float32(name):
    for core, wrong in (
        (make(name), torch.float64),
        (make(name), torch.int64),
        (make(name, torch.float64), torch.float32),
        (make(name).bfloat16(), torch.float64),
    ):
        given = data(core, time=3)
        for method in (scan, fold):
            with pytest.raises(UsageError, match=f"not {wrong}"):
                method(core, given.x.to(wrong), *given[1:])


def test_the_core_itself_stays_in_half_precision_and_learns():
    core = make("gru").bfloat16()
    x, state, start = data(core)
    before = {key: p.detach().clone() for key, p in core.named_parameters()}
    optimizer = torch.optim.SGD(core.parameters(), lr=1.0)
    core.scan(x, state, start)[0].float().square().sum().backward()
    optimizer.step()
    for key, parameter in core.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert not torch.equal(parameter, before[key]), key
    assert core.initial_state(B).dtype == torch.float32
