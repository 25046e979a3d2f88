"""Stable Hadamard memory against its equations."""

from __future__ import annotations

import math

import torch

from rlmem import cores
from tests.cores.oracle import equals_the_loop


def test_equals_a_loop_over_its_equations() -> None:
    draws: list[int] = []

    def loop(p, x):
        M, outputs = torch.zeros(3, 3, dtype=x.dtype), []
        for t, x_t in enumerate(x):
            x_t = x_t / (x_t.square().mean() + 1e-5).sqrt() * p["norm.weight"]
            angles = [math.pi * t * 30 ** (-i / 5) for i in (0, 2, 4)]
            clock = [math.sin(a) for a in angles] + [math.cos(a) for a in angles[:2]]
            timed = x_t + p["strength"] * torch.tensor(clock, dtype=x.dtype)
            k, q = ((p[f"{w}.weight"] @ timed).clamp(min=0) ** 2 for w in ("W_k", "W_q"))
            k, q = k / (1e-5 + k.sum()), q / (1e-5 + q.sum())
            v, c = (p[f"{w}.weight"] @ x_t for w in ("W_v", "W_c"))
            eta = 1 / (1 + torch.exp(-p["w_eta.weight"] @ x_t))
            M = M * (1 + torch.outer(p["theta"][draws[t]], c).tanh()) + eta * torch.outer(v, k)
            h = 3 * M @ q
            h = h / (h.square().mean() + 1e-5).sqrt()
            h = h + p["skip.weight"] @ x_t + p["skip.bias"]
            outputs.append(p["W_out.weight"] @ h + p["W_out.bias"])
        return torch.stack(outputs)

    # The same seed makes the same core: its table is read before.
    with torch.random.fork_rng():
        draws += cores.make(
            "shm", input_size=5, output_size=6, memory_size=3, rows=4
        ).draws.tolist()
    assert set(draws[:23]) == set(range(4))
    equals_the_loop("shm", loop, memory_size=3, rows=4)


def test_draws_depend_on_the_age_alone() -> None:
    core = cores.make("shm", input_size=5, output_size=6).double()
    with torch.no_grad():
        core.strength.zero_()  # without the clock, ages a period apart are alike
    x = torch.randn(1, 4, 5, dtype=torch.float64).repeat(3, 1, 1)
    start = torch.zeros(3, 4, dtype=torch.bool)
    state = core.initial_state(3)._replace(age=torch.tensor([0, 1024, 1]))
    y, after = core.scan(x, state, start)
    assert torch.equal(y[0], y[1])
    assert not torch.allclose(y[0], y[2])
    assert after.age.tolist() == [4, 1028, 5]
    start[:, 0] = True
    again, _ = core.scan(x, after, start)
    assert torch.equal(again[2], y[0])
