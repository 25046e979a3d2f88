"""The mixture of memories against its equations."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop

H, D = 2, 3


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x @ x + 1e-6).sqrt()


@pytest.mark.parametrize("topk", [2, 3])
def test_equals_a_loop_over_its_equations(topk) -> None:
    def loop(p, x):
        memories: list[list[torch.Tensor]] = [[torch.zeros(D, D, dtype=x.dtype)] * H] * 5
        past, outputs = [], []
        for x_t in x:
            past.append(p["W_in.weight"] @ x_t)
            u = p["conv.bias"]
            for j, each in enumerate(past[:-4:-1]):
                u = u + p["conv.weight"][:, -1 - j] * each
            u = u / (1 + torch.exp(-u))
            q, *rest = u.split(H * D)
            beta = 1 / (1 + torch.exp(-p["W_beta.weight"] @ x_t))
            dt = torch.log1p(torch.exp(p["W_dt.weight"] @ x_t + p["W_dt.bias"]))
            alpha = torch.exp(-p["A_log"].exp() * dt)
            scores = (p["W_route.weight"] @ x_t).softmax(0)
            chosen = sorted(range(4), key=lambda m, s=scores: -s[m].item())[:topk]
            total = sum(scores[m] for m in chosen)
            read = [torch.zeros(D, dtype=x.dtype)] * H
            for m in [*chosen, 4]:
                held = list(memories[m])
                for h in range(H):
                    k, v = (rest[i].split(D)[h] for i in (m, 5 + m))
                    S = alpha[h] * held[h]
                    S = S + beta[m * H + h] * torch.outer(unit(k), v - S.t() @ unit(k))
                    held[h] = S
                    share = 1 if m == 4 else scores[m] / total
                    read[h] = read[h] + share * (S.t() @ unit(q.split(D)[h]))
                memories = [held if i == m else each for i, each in enumerate(memories)]
            y = [p["norm"] * o / (o.square().mean() + 1e-5).sqrt() for o in read]
            gate = p["W_gate.weight"] @ x_t
            outputs.append(p["W_out.weight"] @ (torch.cat(y) * gate / (1 + torch.exp(-gate))))
        return torch.stack(outputs)

    equals_the_loop("mom", loop, memories=4, topk=topk, heads=H, head_size=D, conv_size=3)


def test_memories_that_are_not_selected_keep_their_content() -> None:
    core = cores.make("mom", input_size=5, memories=3, topk=1, heads=2).double()
    x, none = torch.randn(1, 8, 5, dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
    state, selected = core.initial_state(1), set()
    for x_t in x.unbind(1):
        _, after = core.step(x_t, state, none)
        (chosen,) = (core.W_route(x_t)).argmax(-1).tolist()
        before, now = (each.S.unflatten(1, (4, 2)) for each in (state, after))
        changed = (before != now).any(-1).any(-1).all(-1)[0].tolist()
        assert changed == [m in (chosen, 3) for m in range(4)]
        selected.add(chosen)
        state = after
    assert len(selected) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 5}, "topk must be at most memories, 4, not 5"),
        ({"topk": 0}, "topk must be an integer of at least 1, not 0"),
        ({"memories": 0}, "memories must be an integer of at least 1, not 0"),
    ],
)
def test_invalid_options_are_named(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        cores.make("mom", input_size=4, **options)
