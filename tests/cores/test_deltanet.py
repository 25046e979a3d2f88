"""DeltaNet and Gated DeltaNet against their equations, token by token, episode by episode."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem import cores
from rlmem.cores.delta import DeltaCore
from rlmem.errors import UsageError
from tests.cores.common import some_starts

NAMES = ["deltanet", "gated_deltanet"]


def episode(core: DeltaCore, xs: Tensor) -> Tensor:
    """The layer's equations for one episode [T, I], head by head, with explicit sums."""
    projected = [core.W_in.weight @ x for x in xs]
    H, N, size = core.heads, core.writes, core.head_size
    S = torch.zeros(H, size, size, dtype=xs.dtype)
    outputs = []
    for t, x in enumerate(xs):
        convolved = core.conv.bias.clone()
        for j in range(min(t + 1, core.conv.size)):
            convolved = convolved + core.conv.weight[:, -1 - j] * projected[t - j]
        vectors = F.silu(convolved).reshape(1 + 2 * N, H, size)
        beta = (core.W_beta.weight @ x).sigmoid().reshape(N, H)
        beta = beta * (2 if core.negative_eigenvalues else 1)
        answers = []
        for h in range(H):
            held = S[h]
            if hasattr(core, "A_log"):
                dt = torch.log1p(torch.exp(core.W_dt.weight[h] @ x + core.W_dt.bias[h]))
                held = held * torch.exp(-dt * core.A_log[h].exp())
            for n in range(N):
                k, v = vectors[1 + n, h], vectors[1 + N + n, h]
                k = k / (k @ k + 1e-6).sqrt()
                # (I - beta k k^T) S + beta k v^T
                erase = torch.eye(size, dtype=xs.dtype) - beta[n, h] * torch.outer(k, k)
                held = erase @ held + beta[n, h] * torch.outer(k, v)
            S = torch.cat([S[:h], held[None], S[h + 1 :]])
            q = vectors[0, h] / (vectors[0, h] @ vectors[0, h] + 1e-6).sqrt()
            o = held.t() @ q
            answers.append(core.norm * o / (o.square().mean() + 1e-5).sqrt())
        y = torch.cat(answers)
        if hasattr(core, "W_gate"):
            y = y * F.silu(core.W_gate.weight @ x)
        outputs.append(core.W_out.weight @ y)
    return torch.stack(outputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2},
        {"heads": 3, "head_size": 2, "householder_steps": 2, "negative_eigenvalues": True},
        {"heads": 1, "head_size": 5, "conv_size": 2},
    ],
    ids=str,
)
def test_layer_equals_its_equations_on_every_episode(name: str, options: dict[str, Any]) -> None:
    core = cores.make(name, input_size=5, output_size=6, **options).double()
    x, start = torch.randn(3, 13, 5, dtype=torch.float64), some_starts("cpu")
    rows, _ = core.scan(x, core.initial_state(3), start)
    state, folded = core.initial_state(3), []
    for t in range(13):
        y, state = core.step(x[:, t], state, start[:, t])
        folded.append(y)
    torch.testing.assert_close(torch.stack(folded, dim=1), rows)
    for row in range(3):
        at = sorted({0, *start[row].nonzero().flatten().tolist(), 13})
        for begin, end in pairwise(at):
            torch.testing.assert_close(rows[row, begin:end], episode(core, x[row, begin:end]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("negative", [False, True])
def test_extreme_inputs_stay_finite(name: str, negative: bool) -> None:
    """Pre-activations above 50 in magnitude, forward and backward."""
    core = cores.make(name, input_size=4, output_size=4, negative_eigenvalues=negative)
    x = 50 * torch.randn(2, 300, 4)
    x[:, ::7] = 0
    x.requires_grad_()
    assert core.W_beta(x).abs().max() > 50
    y, state = core.scan(x, core.initial_state(2), torch.rand(2, 300) < 0.02)
    grads = torch.autograd.grad(y.square().sum(), [x, *core.parameters()])
    for each in (y, *state, *grads):
        assert each.isfinite().all()


def test_initial_decays_are_in_their_range() -> None:
    core = cores.make("gated_deltanet", input_size=4, heads=256, dt_min=0.01, dt_max=0.2)
    dt = F.softplus(core.W_dt.bias)
    assert 0.01 * 0.999 < dt.min() < 0.012
    assert 0.17 < dt.max() < 0.2 * 1.001
    assert 1 <= core.A_log.exp().min() < 1.5
    assert 15.5 < core.A_log.exp().max() < 16.001


@pytest.mark.parametrize(
    "options", [{"heads": 0}, {"head_size": 0}, {"householder_steps": 0}, {"conv_size": 0}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_invalid_options_are_named(name: str, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        cores.make(name, input_size=4, **options)
