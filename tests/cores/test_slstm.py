"""The sLSTM against the published cell, with extreme gates, and its initial values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from rlmem import cores
from rlmem.cores.slstm import SLSTMCell, SLSTMState
from rlmem.errors import UsageError
from tests.cores.common import DTYPES
from tests.golden import Golden, under

HEADS, WIDTH = 2, 6
LEAVES = ("h", "c", "n", "m")


def by_head(gates: Tensor) -> Tensor:
    """The file's gates [B, T, 4, H D] as the cell's [B, T, H, 4 D]."""
    return gates.unflatten(-1, (HEADS, -1)).transpose(2, 3).flatten(-2)


def parameters(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's R [H, 4 D, D] and b in the cell's layout."""
    return {"R": given["R"].mT, "b": given["b"].reshape(4, HEADS, -1).transpose(0, 1)}


def fold(cell: SLSTMCell, gates: Tensor, state: SLSTMState, start: Tensor):
    """A loop over `step`: the outputs before the norm, and all states."""
    states = []
    for t in range(gates.shape[1]):
        state = SLSTMState(*(torch.where(start[:, t, None], 0, leaf) for leaf in state))
        _, state = cell.step(gates[:, t], state)
        states.append(state)
    return torch.stack([each.h for each in states], dim=1), states


def scan(cell: SLSTMCell, gates: Tensor, state: SLSTMState, start: Tensor):
    cell.norm = torch.nn.Identity()
    y, last = cell.scan(gates, state, start)
    return y, [last]


class CellModule(torch.nn.Module):
    """A module that runs `how` on a cell, for `functional_call`."""

    def __init__(self, cell: SLSTMCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, how, *args):
        return how(self.cell, *args)


@pytest.mark.parametrize("name", ["slstm", "slstm_extreme"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("how", [scan, fold])
def test_the_cell_equals_the_published_one(name, dtype, how):
    golden = Golden(name, dtype)
    leaves = golden.leaves("in", "param", "state0")
    params = parameters(under("param", leaves))
    firsts = SLSTMState(*(leaves[f"state0.{key}"] for key in LEAVES))
    gates = by_head(leaves["in.gates"])
    module = CellModule(SLSTMCell(WIDTH, HEADS).to(dtype))
    params = {f"cell.{key}": each for key, each in params.items()}
    y, states = functional_call(module, params, (how, gates, firsts, golden["start"]))
    golden.check("out.h", y)
    for key in LEAVES:
        golden.check(f"state.{key}", getattr(states[-1], key))
    if how is fold:
        for key in LEAVES:
            golden.check(f"out.{key}", torch.stack([getattr(s, key) for s in states], dim=1))
    golden.check_gradients(y, leaves)


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
@pytest.mark.parametrize("extreme", [50.0, -50.0])
def test_extreme_gates_and_long_rows_stay_finite(forget, extreme):
    """Every gate at +-50 in turn, over 10,000 steps, outputs and gradients."""
    cell = SLSTMCell(4, 2, forget)
    torch.nn.init.normal_(cell.R)
    gates = torch.randn(2, 10_000, 2, 8)
    for gate in range(4):
        gates[:, gate * 2_000 : gate * 2_000 + 1_500, :, 2 * gate : 2 * gate + 2] += extreme
    gates.requires_grad_()
    start = torch.zeros(2, 10_000, dtype=torch.bool)
    start[0, 5_000] = True
    zeros = torch.zeros(2, 4)
    y, last = cell.scan(gates, SLSTMState(zeros, zeros, zeros, zeros), start)
    grads = torch.autograd.grad(y.square().sum() + last.h.sum(), [gates, *cell.parameters()])
    assert all(x.isfinite().all() for x in (y, *last, *grads))


def test_exponential_forget_gate_equals_its_equation():
    """With f = 0 nothing decays: n exp(m) is the sum of exp(i)."""
    cell = SLSTMCell(3, 1, "exponential").double()
    torch.nn.init.zeros_(cell.b)
    gates = torch.randn(2, 7, 1, 12, dtype=torch.float64)
    gates[..., 3:6] = 0
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    start = torch.zeros(2, 7, dtype=torch.bool)
    _, last = cell.scan(gates, SLSTMState(zeros, zeros, zeros, zeros), start)
    i, _, z, o = gates[:, :, 0].chunk(4, dim=-1)
    weights = i.exp().sum(1)
    torch.testing.assert_close(last.n * last.m.exp(), weights)
    mean = (i.exp() * z.tanh()).sum(1) / weights
    torch.testing.assert_close(last.h, o[:, -1].sigmoid() * mean)


@pytest.mark.parametrize(("init", "ends"), [("linspace", (3.0, 6.0)), ("powerlaw", (5.0, -7.0))])
def test_initial_forget_gates_follow_the_option(init, ends):
    core = cores.make("slstm", input_size=3, output_size=8, forget_init=init)
    biases = core.cell.b.detach()
    assert not biases[:, [0, 2, 3]].any()
    torch.testing.assert_close(biases[:, 1, [0, -1]], torch.tensor([ends, ends]))
    steps = biases[:, 1].diff() * (ends[1] - ends[0])
    assert (steps > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads must divide the width 8, not 3"),
        ({"heads": 0}, "heads must be an integer of at least 1"),
        ({"forget": "expo"}, "unknown forget gate 'expo'; did you mean exponential"),
        ({"forget_init": "zeros"}, "unknown forget_init 'zeros'"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("slstm", input_size=8, **options)
