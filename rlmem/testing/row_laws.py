"""Laws about rows: `scan` equals `step`, resets are exact, outputs are causal, rows independent."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rlmem import tree
from rlmem.cores import MemoryCore
from rlmem.errors import UsageError
from rlmem.testing.law import NoClaim, Subject, law
from rlmem.testing.rows import (
    INPUT,
    OUTPUT,
    TOLERANCE,
    B,
    Data,
    T,
    close,
    data,
    fold,
    fresh,
    gradients_close,
    identical,
    learnable,
    require,
    rows,
    run,
    runs_close,
    scan,
    some_starts,
    states_close,
)

How = Callable[..., tuple[Tensor, Any]]
BOTH = (scan, fold)
DTYPES = (torch.float32, torch.float64)


@law(dtype=DTYPES, output_size=(INPUT, OUTPUT))
def scan_equals_a_loop_over_step(subject: Subject, dtype: torch.dtype, output_size: int) -> None:
    core = subject.make(dtype, output_size=output_size)
    given = data(core)
    runs_close(run(scan, core, given), run(fold, core, given), dtype)


@law(length=(4,))
def a_scan_in_segments_equals_one_scan(subject: Subject, length: int) -> None:
    core = subject.make(torch.float64)
    given = data(core)  # with starts inside of segments
    whole = run(scan, core, given)
    core.checkpoint_segments = length
    runs_close(run(scan, core, given), whole, torch.float64)


@law()
def every_parameter_has_a_gradient(subject: Subject) -> None:
    core = subject.make(torch.float64)
    for key, gradient in run(scan, core, data(core)).grad_params.items():
        require(gradient.isfinite().all(), f"the gradient of {key} is not finite")
        require(gradient.abs().max() > 0, f"{key} has no influence")


@law(dtype=DTYPES)
def a_packed_row_equals_its_episodes_scanned_separately(
    subject: Subject, dtype: torch.dtype
) -> None:
    core = subject.make(dtype)
    given = data(core)
    runs_close(run(scan, core, given), run(_separately, core, given), dtype)


def _separately(core: MemoryCore[Any], x: Tensor, state: Any, start: Tensor) -> tuple[Tensor, Any]:
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


@law(value=(None, float("nan"), float("inf")), how=BOTH)
def steps_before_a_start_have_no_influence(subject: Subject, value: float | None, how: How) -> None:
    core = subject.make()
    if value is not None and not core.forgets_nonfinite:
        raise NoClaim("forgets_nonfinite = False")
    for begin in (0, 1, 6, T - 1):
        given = data(core)
        given.start[:] = some_starts(subject.device)
        given.start[:, begin] = True
        other = _with_other_past(given, begin, value)
        got = [_after(how, core, each, begin) for each in (given, other)]
        identical(got[0], got[1], f"results after the start at {begin}")


def _with_other_past(given: Data, begin: int, value: float | None) -> Data:
    """`given` with a different past before `begin`: random numbers, or `value` everywhere."""

    def other(leaf: Tensor) -> Tensor:
        return leaf + torch.randn_like(leaf) if value is None else torch.full_like(leaf, value)

    x = given.x.clone()
    x[:, :begin] = other(x[:, :begin])
    return Data(x, tree.map(lambda s: other(s) if learnable(s) else s, given.state), given.start)


def _after(how: How, core: MemoryCore[Any], given: Data, begin: int) -> tuple[Tensor, Any, Tensor]:
    """Outputs from `begin` on, the final state, and the gradient of these outputs for x."""
    x = given.x.clone().requires_grad_()
    y, final = how(core, x, given.state, given.start)
    (gradient,) = torch.autograd.grad(y[:, begin:].square().sum(), x)
    return y[:, begin:].detach(), final, gradient[:, begin:]


@law(how=BOTH)
def no_gradient_crosses_a_start(subject: Subject, how: How) -> None:
    core = subject.make()
    given = data(core)
    begin = 7
    given.start[:, begin] = True
    x, state = given.x.requires_grad_(), fresh(given.state)
    y, final = how(core, x, state, given.start)
    firsts = [leaf for leaf in tree.leaves(state) if learnable(leaf)]
    ends = [leaf.abs().sum() for leaf in tree.leaves(final) if learnable(leaf)]
    total = torch.stack([y[:, begin:].sum(), *ends]).sum()
    grads = torch.autograd.grad(total, [x, *firsts], allow_unused=True, materialize_grads=True)
    require(grads[0][:, begin:].abs().max() > 0, "the inputs after the start have no gradient")
    require(not grads[0][:, :begin].any(), "inputs before the start have a gradient")
    require(not any(each.any() for each in grads[1:]), "the first state has a gradient")


@law(dtype=DTYPES)
def splitting_a_row_changes_nothing(subject: Subject, dtype: torch.dtype) -> None:
    core = subject.make(dtype)
    given = data(core)
    value, gradient = TOLERANCE[dtype]
    whole = run(scan, core, given)
    for at in range(1, T):

        def split(
            core: MemoryCore[Any], x: Tensor, state: Any, start: Tensor, at: int = at
        ) -> tuple[Tensor, Any]:
            first, state = core.scan(x[:, :at], state, start[:, :at])
            second, state = core.scan(x[:, at:], state, start[:, at:])
            return torch.cat([first, second], dim=1), state

        got = run(split, core, given)
        close(got.y, whole.y, value, f"outputs of the row split at {at}")
        states_close(got.state, whole.state, value)
        gradients_close(got, whole, gradient)


@law(how=BOTH)
def outputs_do_not_depend_on_later_inputs(subject: Subject, how: How) -> None:
    core = subject.make()
    given, at = data(core), 6
    with torch.no_grad():
        y, _ = how(core, *given)
        later = given.x.clone()
        later[:, at:] += 1.0
        identical(how(core, later, *given[1:])[0][:, :at], y[:, :at], "outputs before the change")


@law(how=BOTH)
def rows_do_not_depend_on_each_other(subject: Subject, how: How) -> None:
    core = subject.make()
    given, row = data(core), 1
    with torch.no_grad():
        y, final = how(core, *given)
        x, state, start = given.x.clone(), fresh(given.state), given.start.clone()
        x[row] += 1.0
        start[row, 4] = True
        state = tree.map(lambda leaf: leaf.detach(), state)
        for leaf in filter(learnable, tree.leaves(state)):
            leaf[row] += 1.0
        others = torch.arange(B) != row
        got, end = how(core, x, state, start)
        identical(rows((got, end), others), rows((y, final), others), "the other rows")
        require(not torch.equal(got[row], y[row]), "the outputs do not depend on their inputs")


@law()
def a_core_with_a_state_remembers(subject: Subject) -> None:
    core = subject.make(torch.float64)
    if not any(leaf.numel() for leaf in tree.leaves(core.initial_state(B))):
        raise NoClaim("its state is empty")
    given = data(core, time=5)
    x = given.x.clone()
    x[:, 0] += 1.0
    none = torch.zeros_like(given.start)
    y, changed = (core.scan(each, given.state, none)[0] for each in (given.x, x))
    different = ((y - changed)[:, 1:].abs() > 1e-8).any(dim=2).all()
    require(different, "an input has no influence on later outputs")


@law(time=(1, 2, 3, 31, 64, 65))
def rows_may_have_any_length(subject: Subject, time: int) -> None:
    core = subject.make(torch.float64)
    given = data(core, time)
    runs_close(run(scan, core, given), run(fold, core, given), torch.float64)


@law()
def very_long_rows_stay_finite(subject: Subject) -> None:
    core = subject.make()
    if not core.claims_length:
        raise NoClaim("claims_length = False")
    x = torch.randn(1, 100_000, INPUT, device=subject.device)
    start = torch.zeros(x.shape[:2], dtype=torch.bool, device=subject.device)
    state = core.initial_state(1)
    with torch.no_grad():
        began = perf_counter()
        core.scan(x[:, :500], state, start[:, :500])
        # A core with a Python loop over time gets a shorter row, to take seconds, not minutes.
        time = x.shape[1] if perf_counter() - began < 0.005 else 5_000
        y, state = core.scan(x[:, :time], state, start[:, :time])
    require(y.isfinite().all(), f"outputs are not finite within {time:,} steps")
    finite = all(leaf.isfinite().all() for leaf in tree.leaves(state) if learnable(leaf))
    require(finite, f"the state is not finite after {time:,} steps")


@law(dtype=DTYPES)
def initial_states_have_equal_rows_and_the_state_dtype(
    subject: Subject, dtype: torch.dtype
) -> None:
    core = subject.make(dtype)
    state = core.initial_state(B)
    for leaf in tree.leaves(state):
        require(leaf.shape[0] == B, f"a leaf has {leaf.shape[0]} rows, not {B}")
        require(leaf.device.type == subject.device, f"a leaf is on {leaf.device}")
        if learnable(leaf):
            require(leaf.dtype in (dtype, dtype.to_complex()), f"a leaf is {leaf.dtype}")
    one = core.initial_state(1)
    identical(tree.map(lambda leaf: leaf[:1].expand_as(leaf), state), state, "rows")
    identical(rows(state, slice(0, 1)), one, "the first row and the state of one row")


@law(factor=(1e3, 1e6), how=BOTH)
def large_inputs_give_finite_results_near_those_in_float64(
    subject: Subject, factor: float, how: How
) -> None:
    core = subject.make()
    given = data(core)
    given = given._replace(x=given.x * factor, state=core.initial_state(B))
    got = run(how, core, given)
    require(got.y.isfinite().all(), "outputs are not finite")
    require(got.grad_x.isfinite().all(), "the gradient of x is not finite")
    for key, gradient in got.grad_params.items():
        require(gradient.isfinite().all(), f"the gradient of {key} is not finite")
    after, _ = core.scan(given.x, got.state, given.start)
    require(after.isfinite().all(), "outputs of the next row are not finite")
    if factor == 1e3:
        core.double()
        want, _ = how(core, given.x.double(), core.initial_state(B), given.start)
        error = (got.y - want).norm() / want.norm()
        require(error < 1e-2, f"outputs are off by {error:.1e} of their norm")


@law()
def noncontiguous_inputs_give_the_same_results(subject: Subject) -> None:
    core = subject.make(torch.float64)
    given = data(core)
    strided = Data(
        given.x.transpose(0, 1).contiguous().transpose(0, 1),
        tree.map(lambda leaf: leaf.repeat_interleave(2, dim=0)[::2], given.state),
        given.start.t().contiguous().t(),
    )
    for how in BOTH:
        runs_close(run(how, core, strided), run(how, core, given), torch.float64)


@law(option=("input_size", "output_size"), value=(0, -1))
def invalid_sizes_are_named(subject: Subject, option: str, value: int) -> None:
    try:
        sizes: dict[str, Any] = {option: value}
        subject.make(**sizes)
    except UsageError as error:
        require(option in str(error), f"the error does not name {option}: {error}")
        return
    raise AssertionError(f"{option} = {value} is no error: call super().__init__(input_size, ...)")


@law(method=("step", "scan"), wrong=("rows", "width", "dtype", "device", "layout"))
def arguments_that_do_not_fit_are_refused(subject: Subject, method: str, wrong: str) -> None:
    core = subject.make()
    given = data(core)
    x, start = (given.x[:, 0], given.start[:, 0]) if method == "step" else (given.x, given.start)
    leaves = list(tree.leaves(given.state))
    for place, each in enumerate([x, start, *leaves]):
        if (changed := _changed(each, wrong)) is None:
            continue
        parts = [x, start, *leaves]
        parts[place] = changed
        rest = iter(parts[2:])
        state = tree.map(lambda _, rest=rest: next(rest), given.state)
        name = ["x", "start"][place] if place < 2 else f"tensor {place - 2} of the state"
        try:
            getattr(core, method)(parts[0], state, parts[1])
        except UsageError as error:
            require("\n" not in str(error), f"the error has several lines: {error}")
            named = name in str(error) or (wrong == "rows" and "start" in str(error))
            require(named, f"the error does not name {name}: {error}")
            continue
        raise AssertionError(f"{name} with wrong {wrong} is no error")


def _changed(x: Tensor, wrong: str) -> Tensor | None:
    """`x` with another number of rows, width, dtype, device or layout; None if it has no width."""
    if wrong == "width":
        return x.unsqueeze(-1) if x.dim() < 2 else torch.cat([x, x], -1) if x.numel() else None
    if wrong == "rows":
        return x[:1]
    if wrong == "dtype":
        return torch.zeros_like(x, dtype=torch.int8)
    return x.to("meta") if wrong == "device" else x.detach().to_sparse()
