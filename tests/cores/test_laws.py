"""The laws of a memory core: properties that every registered core must have.

Scan equals step, resets are exact, rows can be split, outputs are causal, rows are independent.
"""

from __future__ import annotations

from time import perf_counter

import pytest
import torch

from rlmem import tree
from rlmem.errors import UsageError
from tests.cores.common import (
    INPUT,
    OUTPUT,
    TOLERANCE,
    B,
    Data,
    T,
    close,
    data,
    every_core,
    every_device,
    every_dtype,
    fold,
    fresh,
    gradients_close,
    identical,
    learnable,
    make,
    rows,
    run,
    runs_close,
    scan,
    some_starts,
    states_close,
)


@every_core
@every_dtype
@every_device
@pytest.mark.parametrize("output_size", [INPUT, OUTPUT])
def test_scan_equals_a_loop_over_step(name, dtype, device, output_size):
    core = make(name, dtype, device, output_size=output_size)
    given = data(core)
    runs_close(run(scan, core, given), run(fold, core, given), dtype)


@every_core
def test_every_parameter_has_a_gradient(name):
    core = make(name, torch.float64)
    for key, gradient in run(scan, core, data(core)).grad_params.items():
        assert gradient.isfinite().all(), key
        assert gradient.abs().max() > 0, f"{key} has no influence"


@every_core
@every_dtype
@every_device
def test_a_packed_row_equals_its_episodes_scanned_separately(name, dtype, device):
    core = make(name, dtype, device)
    given = data(core)

    def separately(core, x, state, start):
        outputs, finals = [], []
        for row in range(B):
            at = sorted({0, *start[row].nonzero().flatten().tolist()})
            here, pieces = rows(state, slice(row, row + 1)), []
            for begin, end in zip(at, [*at[1:], T], strict=True):
                here = core.initial_state(1) if start[row, begin] else here
                none = start.new_zeros(1, end - begin)
                y, here = core.scan(x[row : row + 1, begin:end], here, none)
                pieces.append(y)
            outputs.append(torch.cat(pieces, dim=1))
            finals.append(here)
        return torch.cat(outputs), tree.map(lambda *leaf: torch.cat(leaf), *finals)

    runs_close(run(scan, core, given), run(separately, core, given), dtype)


def with_other_past(given: Data, begin: int, value: float | None = None) -> Data:
    """`given` with a different past before `begin`: random numbers, or `value` everywhere."""

    def other(leaf):
        return leaf + torch.randn_like(leaf) if value is None else torch.full_like(leaf, value)

    x = given.x.clone()
    x[:, :begin] = other(x[:, :begin])
    return Data(x, tree.map(lambda s: other(s) if learnable(s) else s, given.state), given.start)


@every_core
@every_device
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")], ids=["other", "nan", "inf"])
@pytest.mark.parametrize("how", [scan, fold])
def test_steps_before_a_start_have_no_influence(name, device, value, how):
    core = make(name, device=device)
    if value is not None and not core.forgets_nonfinite:
        pytest.skip("this core does not guarantee to forget NaN and Inf")
    for begin in (0, 1, 6, T - 1):
        given = data(core)
        given.start[:] = some_starts(device)
        given.start[:, begin] = True
        other = with_other_past(given, begin, value)
        got = [after(how, core, each, begin) for each in (given, other)]
        identical(got[0], got[1], f"results after the start at {begin}")


def after(how, core, given, begin):
    """Outputs from `begin` on, the final state, and the gradient of these outputs for x."""
    x = given.x.clone().requires_grad_()
    y, final = how(core, x, given.state, given.start)
    (gradient,) = torch.autograd.grad(y[:, begin:].square().sum(), x)
    return y[:, begin:].detach(), final, gradient[:, begin:]


@every_core
@every_device
@pytest.mark.parametrize("how", [scan, fold])
def test_no_gradient_crosses_a_start(name, device, how):
    core = make(name, device=device)
    given = data(core)
    begin = 7
    given.start[:, begin] = True
    x, state = given.x.requires_grad_(), fresh(given.state)
    y, final = how(core, x, state, given.start)
    firsts = [leaf for leaf in tree.leaves(state) if learnable(leaf)]
    ends = [leaf.abs().sum() for leaf in tree.leaves(final) if learnable(leaf)]
    grads = torch.autograd.grad(
        y[:, begin:].sum() + sum(ends), [x, *firsts], allow_unused=True, materialize_grads=True
    )
    assert grads[0][:, begin:].abs().max() > 0
    assert not grads[0][:, :begin].any()
    assert not any(gradient.any() for gradient in grads[1:])


@every_core
@every_dtype
@every_device
def test_splitting_a_row_changes_nothing(name, dtype, device):
    core = make(name, dtype, device)
    given = data(core)
    value, gradient = TOLERANCE[dtype]
    whole = run(scan, core, given)
    for at in range(1, T):

        def split(core, x, state, start, at=at):
            first, state = core.scan(x[:, :at], state, start[:, :at])
            second, state = core.scan(x[:, at:], state, start[:, at:])
            return torch.cat([first, second], dim=1), state

        got = run(split, core, given)
        close(got.y, whole.y, value, f"outputs of the row split at {at}")
        states_close(got.state, whole.state, value)
        gradients_close(got, whole, gradient)


@every_core
@every_device
@pytest.mark.parametrize("how", [scan, fold])
def test_outputs_depend_neither_on_the_future_nor_on_other_rows(name, device, how):
    core = make(name, device=device)
    given = data(core)
    at, row = 6, 1
    with torch.no_grad():
        y, final = how(core, *given)
        later = given.x.clone()
        later[:, at:] += 1.0
        identical(how(core, later, *given[1:])[0][:, :at], y[:, :at], "outputs before the change")

        x, state, start = given.x.clone(), fresh(given.state), given.start.clone()
        x[row] += 1.0
        start[row, 4] = True
        state = tree.map(lambda leaf: leaf.detach(), state)
        for leaf in filter(learnable, tree.leaves(state)):
            leaf[row] += 1.0
        others = torch.arange(B) != row
        got, end = how(core, x, state, start)
        identical(rows((got, end), others), rows((y, final), others), "the other rows")
        assert not torch.equal(got[row], y[row])


@every_core
def test_a_core_with_a_state_remembers(name):
    core = make(name, torch.float64)
    if not any(leaf.numel() for leaf in tree.leaves(core.initial_state(B))):
        pytest.skip("this core has no state")
    given = data(core, time=5)
    x = given.x.clone()
    x[:, 0] += 1.0
    none = torch.zeros_like(given.start)
    y, changed = (core.scan(each, given.state, none)[0] for each in (given.x, x))
    assert ((y - changed)[:, 1:].abs() > 1e-8).any(dim=2).all()


@every_core
@every_device
@pytest.mark.parametrize("time", [1, 2, 3, 31, 64, 65])
def test_rows_of_any_length(name, device, time):
    core = make(name, torch.float64, device)
    given = data(core, time)
    runs_close(run(scan, core, given), run(fold, core, given), torch.float64)


@every_core
@every_device
def test_very_long_rows_stay_finite(name, device):
    core = make(name, device=device)
    if not core.claims_length:
        pytest.skip("this core gives no guarantee for very long rows")
    x = torch.randn(1, 100_000, INPUT, device=device)
    start = torch.zeros(x.shape[:2], dtype=torch.bool, device=device)
    state = core.initial_state(1)
    with torch.no_grad():
        began = perf_counter()
        core.scan(x[:, :500], state, start[:, :500])
        # A core with a Python loop over time gets a shorter row, to take seconds, not minutes.
        time = x.shape[1] if perf_counter() - began < 0.02 else 5_000
        y, state = core.scan(x[:, :time], state, start[:, :time])
    assert y.isfinite().all()
    assert all(leaf.isfinite().all() for leaf in tree.leaves(state) if learnable(leaf))


@every_core
@every_dtype
@every_device
def test_initial_states_have_equal_rows_and_the_state_dtype(name, dtype, device):
    core = make(name, dtype, device)
    state = core.initial_state(B)
    for leaf in tree.leaves(state):
        assert leaf.shape[0] == B
        assert leaf.device.type == device
        if learnable(leaf):
            assert leaf.dtype in (dtype, dtype.to_complex())
    one = core.initial_state(1)
    identical(tree.map(lambda leaf: leaf[:1].expand_as(leaf), state), state, "rows")
    identical(rows(state, slice(0, 1)), one, "the first row and the state of one row")


@every_core
@pytest.mark.parametrize("factor", [1e3, 1e6])
@pytest.mark.parametrize("how", [scan, fold])
def test_large_inputs_give_finite_results_near_those_in_float64(name, factor, how):
    core = make(name)
    given = data(core)
    given = given._replace(x=given.x * factor, state=core.initial_state(B))
    got = run(how, core, given)
    assert got.y.isfinite().all()
    assert got.grad_x.isfinite().all()
    for key, gradient in got.grad_params.items():
        assert gradient.isfinite().all(), key
    # The next row continues from the state.
    assert core.scan(given.x, got.state, given.start)[0].isfinite().all()
    if factor == 1e3:
        core.double()
        want, _ = how(core, given.x.double(), core.initial_state(B), given.start)
        assert (got.y - want).norm() < 1e-2 * want.norm()


@every_core
@every_device
def test_noncontiguous_inputs_give_the_same_results(name, device):
    core = make(name, torch.float64, device)
    given = data(core)
    strided = Data(
        given.x.transpose(0, 1).contiguous().transpose(0, 1),
        tree.map(lambda leaf: leaf.repeat_interleave(2, dim=0)[::2], given.state),
        given.start.t().contiguous().t(),
    )
    for how in (scan, fold):
        runs_close(run(how, core, strided), run(how, core, given), torch.float64)


@every_core
@pytest.mark.parametrize("option", ["input_size", "output_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_invalid_sizes_are_named(name, option, value):
    with pytest.raises(UsageError, match=option):
        make(name, **{option: value})
