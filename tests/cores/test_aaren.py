"""Aaren's running mean against published values and in edge cases."""

from __future__ import annotations

import pytest
import torch

from rlmem.cores.aaren import Average, average_scan, average_step, running_max
from tests.cores.common import DTYPES
from tests.golden import Golden, under


def fold(score, value, state, start):
    outputs = []
    for t in range(score.shape[1]):
        begins = start[:, t, None]
        state = Average(
            torch.where(begins, -torch.inf, state.m),
            torch.where(begins, 0, state.u),
            torch.where(begins[..., None], 0, state.w),
        )
        o, state = average_step(score[:, t], value[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("how", [average_scan, fold])
def test_the_mean_equals_published_values(how, dtype):
    golden = Golden("aaren", dtype)
    leaves = golden.leaves("in", "param", "state0")
    score = (leaves["in.k"] * leaves["param.q"]).sum(-1)
    state = Average(**under("state0", leaves))
    o, final = how(score, leaves["in.v"], state, golden["start"])
    golden.check("out.o", o)
    # Only u exp(m) and w exp(m) are unique; the file has the same m.
    for key, leaf in final._asdict().items():
        golden.check(f"state.{key}", leaf)
    golden.check_gradients(o, leaves)


@pytest.mark.parametrize("time", [1, 2, 7, 8, 33])
def test_the_running_maximum_is_per_episode(time):
    score, m = torch.randn(4, time, 3), torch.randn(4, 3)
    start = torch.rand(4, time) < 0.2
    best = running_max(score, m, start)
    for b in range(4):
        want = m[b]
        assert torch.equal(best[b, 0], want)
        for t in range(time):
            want = score[b, t] if start[b, t] else torch.maximum(want, score[b, t])
            assert torch.equal(best[b, t + 1], want)


@pytest.mark.parametrize("large", [50.0, 1e4])
def test_extreme_scores_stay_finite_in_values_and_gradients(large):
    score = (torch.randn(2, 500, 3) * large).requires_grad_()
    value = torch.randn(2, 500, 3, 4, requires_grad=True)
    start = torch.rand(2, 500) < 0.02
    start[:, 0] = True
    nothing = Average(torch.full((2, 3), -torch.inf), torch.zeros(2, 3), torch.zeros(2, 3, 4))
    o, state = average_scan(score, value, nothing, start)
    grads = torch.autograd.grad(o.square().sum(), (score, value))
    assert all(each.isfinite().all() for each in (o, *state, *grads))


def test_equal_scores_give_the_mean_of_the_episode():
    value = torch.randn(1, 6, 1, 2)
    start = torch.tensor([[True, False, False, True, False, False]])
    nothing = Average(torch.full((1, 1), -torch.inf), torch.zeros(1, 1), torch.zeros(1, 1, 2))
    o, _ = average_scan(torch.full((1, 6, 1), 3.0), value, nothing, start)
    torch.testing.assert_close(o[0, 2, 0], value[0, :3, 0].mean(0))
    torch.testing.assert_close(o[0, 5, 0], value[0, 3:, 0].mean(0))
