"""mLSTM: the layer against its equations, token by token, and the initial gates."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from rlmem.cores.mlstm import MLSTM, MLSTMCell
from rlmem.errors import UsageError
from tests.cores.common import some_starts


def memory(qs, ks, vs, i, f) -> list[torch.Tensor]:
    """One head of one episode, without stabiliser, with explicit sums over earlier inputs."""
    h = []
    for t, q in enumerate(qs):
        weights = [torch.exp(i[s]) * torch.sigmoid(f[s + 1 : t + 1]).prod() for s in range(t + 1)]
        scores = torch.stack([w * (ks[s] @ q) for s, w in enumerate(weights)])
        read = sum(score * vs[s] for s, score in enumerate(scores))
        h.append(read / scores.sum().abs().clamp(min=1))
    return h


def episode(core: MLSTM, xs: torch.Tensor) -> torch.Tensor:
    """The layer's equations for one episode [T, I]."""
    cell, inner = core.cell, core.conv.channels
    both = [core.W_in.weight @ x + core.W_in.bias for x in xs]
    c, qkv = [], []
    for t in range(len(xs)):
        convolved = core.conv.bias.clone()
        for j in range(min(t + 1, core.conv.size)):
            convolved = convolved + core.conv.weight[:, -1 - j] * both[t - j][:inner]
        c.append(F.silu(convolved))
        qk = core.W_qk.weight @ c[-1] + core.W_qk.bias
        v = core.W_v.weight @ both[t][:inner] + core.W_v.bias
        qkv.append((qk[:inner], qk[inner:] / cell.size**0.5, v))
    gates = torch.stack([cell.gates.weight @ x + cell.gates.bias for x in xs])
    heads = []
    for head in range(cell.heads):
        at = slice(head * cell.size, (head + 1) * cell.size)
        i, f = gates[:, head], gates[:, cell.heads + head]
        h = memory(*([x[part][at] for x in qkv] for part in range(3)), i, f)
        heads.append(torch.stack([(y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt() for y in h]))
    normed = torch.cat(heads, dim=1) * cell.norm.weight
    opened = torch.stack([torch.sigmoid(x[inner:]) for x in both])
    return F.linear(
        opened * (normed + core.skip * torch.stack(c)), core.W_out.weight, core.W_out.bias
    )


def test_layer_equals_its_equations_on_every_episode(monkeypatch):
    monkeypatch.setattr("rlmem.cores.mlstm.EPS", 0.0)  # the equations have no such term
    core = MLSTM(5, 6, heads=2, head_size=3, conv_size=3).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, start = torch.randn(3, 13, 5, dtype=torch.float64), some_starts("cpu")
    y, _ = core.scan(x, core.initial_state(3), start)
    for row in range(3):
        at = sorted({0, *start[row].nonzero().flatten().tolist(), 13})
        for begin, end in pairwise(at):
            torch.testing.assert_close(y[row, begin:end], episode(core, x[row, begin:end]))


def test_initial_gates_are_as_published():
    """They ignore the input; forget gates keep at least 95 %, input gates are near 1."""
    cell = MLSTMCell(8, 4, gate_size=5)
    assert not cell.gates.weight.any()
    torch.testing.assert_close(cell.gates.bias[8:], torch.linspace(3, 6, 8))
    assert 0 < cell.gates.bias[:8].abs().max() < 0.5


def test_heads_cover_the_output():
    """Each has at least 8 units."""
    assert MLSTM(4, 130, heads=4).cell.size == 33
    assert MLSTM(4, 6, heads=4).cell.size == 8
    state = MLSTM(4, 128, conv_size=1).initial_state(2)
    shapes = [(2, 0, 128), (2, 4, 32, 32), (2, 4, 32), (2, 4)]
    assert [tuple(x.shape) for x in state] == shapes


@pytest.mark.parametrize("options", [{"heads": 0}, {"head_size": -1}, {"conv_size": 0}])
def test_invalid_options_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        MLSTM(4, **options)
