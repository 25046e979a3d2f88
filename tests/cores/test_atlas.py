"""Atlas against its equations: the Omega rule, with and without polynomial keys."""

from __future__ import annotations

import math

import pytest
import torch

from rlmem import cores
from rlmem.cores.base import registry
from rlmem.cores.polynomial import Monomials
from rlmem.errors import UsageError
from rlmem.testing import row_laws
from rlmem.testing.law import Subject
from tests.cores.oracle import equals_the_loop

H, D, WINDOW = 2, 3, 3


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def features(k: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """All products of up to two entries of k."""
    y = [a[0], *(a[1] * each for each in k)]
    y += [a[2] * k[i] * k[j] * (1 if i == j else 2**0.5) for i in range(D) for j in range(i, D)]
    return torch.stack(y) / (a @ a).sqrt()


def answer(weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    y = x @ weights[0]
    return y if len(weights) == 1 else torch.nn.functional.gelu(y) @ weights[1]


def learned(weights, momentum, anchor, tokens, rates):
    """Weights and momentum of one head after a step; the gradient of the loss is autograd's."""
    theta, alpha, eta = rates
    loss = sum(g * (answer(anchor, k) - v).square().sum() for k, v, g in tokens)
    slopes = torch.autograd.grad(loss, anchor, create_graph=True)
    momentum = [eta * s - theta * slope for s, slope in zip(momentum, slopes, strict=True)]
    return [(1 - alpha) * w + s for w, s in zip(weights, momentum, strict=True)], momentum


@pytest.mark.parametrize(
    ("degree", "depth", "chunk"),
    [(2, 2, 4), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(1, 2, 4), (2, 1, 1)])],
)
def test_equals_a_loop_over_its_equations(degree, depth, chunk):
    def loop(p, x):
        p = {key.removeprefix("inner."): each for key, each in p.items()}
        first = [[p[f"first.{i}"][h] for i in range(depth)] for h in range(H)]
        weights, momentum = first, [[torch.zeros_like(w) for w in each] for each in first]
        anchor, tokens = first, [[] for _ in range(H)]
        past, outputs = [], []
        for t, x_t in enumerate(x):
            past.append(p["project.weight"] @ x_t)
            u = p["conv.bias"]
            for j, each in enumerate(past[:-4:-1]):
                u = u + p["conv.weight"][:, -1 - j] * each
            qkv = silu(u).view(3, H, D)
            rates = 1 / (1 + torch.exp(-p["rates.weight"] @ x_t - p["rates.bias"])).view(4, H)
            anchor = [list(each) for each in weights] if t % chunk == 0 else anchor
            y = []
            for h in range(H):
                q, k = (each / (each @ each).sqrt() for each in qkv[:2, h])
                if degree == 2:
                    q, k = (features(each, p["monomials.a"]) for each in (q, k))
                tokens[h] = [*tokens[h], (k, qkv[2, h], rates[3, h])][-WINDOW:]
                weights = list(weights)
                momentum = list(momentum)
                weights[h], momentum[h] = learned(
                    weights[h], momentum[h], anchor[h], tokens[h], rates[:3, h]
                )
                m = answer(weights[h], q)
                m = m - m.mean()
                y.append(m / (m.square().mean() + 1e-2).sqrt())
            y = torch.cat(y) * p["norm.weight"] * silu(p["gate.weight"] @ x_t)
            outputs.append(p["out.weight"] @ y)
        return torch.stack(outputs)

    options = {"heads": H, "depth": depth, "chunk": chunk, "window": WINDOW, "degree": degree}
    equals_the_loop("atlas", loop, time=11, limit=None, conv_size=3, **options)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (row_laws.scan_equals_a_loop_over_step, {"output_size": 8}),
        (row_laws.a_packed_row_equals_its_episodes_scanned_separately, {}),
        pytest.param(row_laws.splitting_a_row_changes_nothing, {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("muon_steps", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_laws_with_polynomial_keys(law, values, muon_steps):
    options = {"degree": 2, "chunk": 3, "heads": 2, "muon_steps": muon_steps}
    law(Subject(registry.get("atlas"), options), dtype=torch.float64, **values)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_monomials_are_a_polynomial_kernel(degree):
    features = Monomials(5, degree).double()
    assert features.size == math.comb(5 + degree, degree)
    x, y = torch.nn.functional.normalize(torch.randn(2, 9, 5, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(features(x).norm(dim=-1), torch.ones(9).double())
    near = (x * y).sum(-1)
    series = [1 / math.factorial(i) for i in range(degree + 1)]
    want = sum(c * near**i for i, c in enumerate(series)) / sum(series)
    # The first coefficients are numbers of float32.
    torch.testing.assert_close((features(x) * features(y)).sum(-1), want, rtol=1e-6, atol=0)


def test_invalid_degrees_are_named():
    with pytest.raises(UsageError, match="degree must be an integer of at least 1, not 0"):
        cores.make("atlas", input_size=4, degree=0)
