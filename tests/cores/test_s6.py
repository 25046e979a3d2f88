"""S6: the authors' selective scan, and the layer against its equations, token by token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from rlmem.cores import s6
from rlmem.errors import UsageError
from rlmem.kernels import linear_scan
from tests.cores.common import DTYPES, some_starts
from tests.golden import Golden


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
def test_selective_scan_equals_the_published_one(dtype):
    golden = Golden("mamba", dtype)
    leaves = golden.leaves("in", "param", "state0")
    u, dt, B, C, z = (leaves[f"in.{key}"] for key in ("u", "dt", "B", "C", "z"))
    selected = s6.Selected(u, F.softplus(dt + leaves["param.dt_bias"]), B, C)
    gate, value = s6.discretize(selected, leaves["param.A"].t())
    h = linear_scan(gate, value, leaves["state0.h"].mT.flatten(1), golden["start"])
    y = (s6.contract(h, selected) + leaves["param.D"] * u) * F.silu(z)
    golden.check("out.y", y)
    golden.check("state.h", h[:, -1].unflatten(1, (3, 5)).mT)
    golden.check_gradients(y, leaves)


def episode(core: s6.S6, xs: torch.Tensor) -> torch.Tensor:
    """The layer's equations for one episode [T, I], with explicit sums over earlier inputs."""
    rank, size = core.split[:2]
    projected = [core.W_in.weight @ x for x in xs]
    h = torch.zeros(core.inner, size, dtype=xs.dtype)
    outputs = []
    for t, both in enumerate(projected):
        z = both[core.inner :]
        convolved = core.conv.bias.clone()
        for j in range(min(t + 1, core.conv.size)):
            convolved = convolved + core.conv.weight[:, -1 - j] * projected[t - j][: core.inner]
        u = F.silu(convolved)
        selected = core.W_x.weight @ u
        d, B, C = selected[:rank], selected[rank : rank + size], selected[rank + size :]
        dt = torch.log1p(torch.exp(core.W_dt.weight @ d + core.W_dt.bias))
        h = torch.exp(-dt[:, None] * torch.exp(core.A_log.t())) * h + torch.outer(dt * u, B)
        outputs.append(core.W_out.weight @ ((h @ C + core.D * u) * F.silu(z)))
    return torch.stack(outputs)


def test_layer_equals_its_equations_on_every_episode():
    core = s6.S6(5, 6, expand=2, channel_states=3).double()
    x, start = torch.randn(3, 13, 5, dtype=torch.float64), some_starts("cpu")
    y, _ = core.scan(x, core.initial_state(3), start)
    for row in range(3):
        at = sorted({0, *start[row].nonzero().flatten().tolist(), 13})
        for begin, end in pairwise(at):
            torch.testing.assert_close(y[row, begin:end], episode(core, x[row, begin:end]))


def test_initial_time_steps_are_in_their_range():
    core = s6.S6(4, 512, dt_min=0.01, dt_max=0.2)
    dt = F.softplus(core.W_dt.bias)
    assert 0.01 * 0.999 < dt.min() < 0.012
    assert 0.18 < dt.max() < 0.2 * 1.001


@pytest.mark.parametrize("options", [{"conv_size": 0}, {"expand": 0}, {"channel_states": -2}])
def test_invalid_options_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        s6.S6(4, **options)
