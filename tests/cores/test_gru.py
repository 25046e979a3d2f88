"""The GRU's parallel solvers: their rows equal a loop over `step`, within the tolerance."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.cores.gru import SOLVERS
from rlmem.errors import UsageError
from tests.cores.common import B, T, close, data, fold, run, runs_close, scan

parallel = pytest.mark.parametrize("solver", SOLVERS[1:])


def make(solver: str, dtype: torch.dtype = torch.float64) -> cores.MemoryCore:
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    return cores.make("gru", input_size=6, output_size=8, solver=solver, tolerance=tolerance).to(
        dtype
    )


@parallel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("time", [1, T, 40])
def test_scan_equals_a_loop_over_step(solver, dtype, time):
    core = make(solver, dtype)
    given = data(core, time)
    runs_close(run(scan, core, given), run(fold, core, given), dtype)


@parallel
def test_splitting_a_row_changes_nothing(solver):
    core = make(solver)
    given = data(core)
    whole = run(scan, core, given)
    for at in (1, 5, 6, T - 1):

        def split(core, x, state, start, at=at):
            first, state = core.scan(x[:, :at], state, start[:, :at])
            second, state = core.scan(x[:, at:], state, start[:, at:])
            return torch.cat([first, second], dim=1), state

        runs_close(run(split, core, given), whole, torch.float64)


@parallel
def test_errors_are_within_the_tolerance(solver):
    given = data(make("sequential"), time=60)
    errors = []
    for tolerance in (1e-2, 1e-5):
        torch.manual_seed(1)
        core = cores.make("gru", input_size=6, output_size=8, solver=solver, tolerance=tolerance)
        core.double()
        y, _ = core.scan(*given)
        want, _ = fold(core, *given)
        errors.append((y - want).abs().max().item())
        assert errors[-1] < 10 * tolerance
    assert errors[0] > 10 * errors[1]


@parallel
def test_autocast_keeps_the_state_in_float32(solver):
    core = make(solver, torch.float32)
    given = data(core)
    expected, _ = core.scan(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, final = core.scan(*given)
        y.square().sum().backward()
    close(y, expected, 0.1, "outputs under autocast")
    assert final.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters())


@parallel
def test_a_state_does_not_hold_the_memory_of_its_row(solver):
    core = make(solver)
    _, state = core.scan(
        torch.randn(B, 50, 6).double(), core.initial_state(B), torch.zeros(B, 50) > 0
    )
    assert state.untyped_storage().nbytes() == state.numel() * 8


@pytest.mark.parametrize("options", [{"solver": "newtn"}, {"tolerance": 0.0}], ids=str)
def test_invalid_options_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        cores.make("gru", input_size=6, **options)
