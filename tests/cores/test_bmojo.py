"""B'MOJO against its equations, and its choice of steps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem import cores
from rlmem.cores.base import registry
from rlmem.cores.eidetic import Kept, choose, insert, kept_after
from rlmem.errors import UsageError
from rlmem.testing import row_laws
from rlmem.testing.law import Subject
from tests.cores.oracle import equals_the_loop

W, M, D, STATES = 3, 4, 4, 2


def normed(x: torch.Tensor, p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def state_space(p, us: list[torch.Tensor]) -> list[torch.Tensor]:
    """S6 over a whole episode."""
    p = {key.removeprefix("attention.space."): each for key, each in p.items()}
    past, outputs = [], []
    h = torch.zeros(STATES, 6, dtype=us[0].dtype)
    for u in us:
        inner, z = (p["W_in.weight"] @ u).chunk(2)
        past.append(inner)
        c = p["conv.bias"]
        for j, each in enumerate(past[:-5:-1]):
            c = c + p["conv.weight"][:, -1 - j] * each
        c = c / (1 + torch.exp(-c))
        d, b, read = (p["W_x.weight"] @ c).split((1, STATES, STATES))
        dt = torch.log1p(torch.exp(p["W_dt.weight"] @ d + p["W_dt.bias"]))
        h = torch.exp(-p["A_log"].exp() * dt) * h + torch.outer(b, dt * c)
        y = read @ h + p["D"] * c
        outputs.append(p["W_out.weight"] @ (y * z / (1 + torch.exp(-z))))
    return outputs


def errors_of(us: list[torch.Tensor]) -> list[float]:
    """The errors of a linear predictor that is fitted step by step."""
    S = torch.zeros(6, 6, dtype=us[0].dtype)
    last, found = torch.zeros_like(us[0]), []
    for u in us:
        z = last / (last @ last + 1e-6).sqrt()
        wrong = u - S.t() @ z
        found.append((wrong @ wrong / 6).item())
        S = S + torch.outer(z, wrong) / 2
        last = u
    return found


def test_equals_a_loop_over_its_equations() -> None:
    def loop(p, x):
        p = {key.removeprefix("blocks.0."): each for key, each in p.items()}
        xs = [p["embed.weight"] @ x_t + p["embed.bias"] for x_t in x]
        us = [normed(x_t, p, "attention_norm") for x_t in xs]
        errors = errors_of([u.detach() for u in us])
        fading, outputs = state_space(p, us), []
        qkv = [(p["attention.qkv.weight"] @ u).view(3, 2, D) for u in us]
        for t, x_t in enumerate(xs):
            window = list(range(max(0, t - W), t + 1))
            # The older steps, those of greatest error first.
            kept = sorted(range(max(0, t - W)), key=lambda j: -errors[j])[:M]
            state = (p["attention.W_m.weight"] @ fading[t]).view(2, 2, D)
            heads = []
            for h in range(2):
                bias = p["attention.bias"][h]
                seen = [(qkv[j][1, h], qkv[j][2, h], bias[t - j]) for j in window]
                seen += [(qkv[j][1, h], qkv[j][2, h], bias[W + 1]) for j in kept]
                seen += [(state[0, h], state[1, h], bias[W + 2])]
                weights = torch.stack([qkv[t][0, h] @ k / D**0.5 + b for k, _, b in seen]).exp()
                heads.append(sum(w * v for w, (_, v, _) in zip(weights, seen, strict=True)))
                heads[-1] = heads[-1] / weights.sum()
            x_t = x_t + p["attention.out.weight"] @ torch.cat(heads)
            hidden = F.relu(p["ff.0.weight"] @ normed(x_t, p, "ff_norm") + p["ff.0.bias"])
            outputs.append(x_t + p["ff.2.weight"] @ hidden + p["ff.2.bias"])
        return torch.stack(outputs)

    sizes = {"heads": 2, "memory": W, "eidetic": M, "channel_states": STATES}
    equals_the_loop("bmojo", loop, time=41, **sizes)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (row_laws.scan_equals_a_loop_over_step, {"output_size": 8}),
        (row_laws.a_packed_row_equals_its_episodes_scanned_separately, {}),
        (row_laws.splitting_a_row_changes_nothing, {}),
    ],
)
@pytest.mark.parametrize(
    ("memory", "eidetic"), [(3, 2), pytest.param(1, 1, marks=pytest.mark.slow)]
)
def test_laws_with_a_window_shorter_than_the_row(law, values, memory, eidetic) -> None:
    options = {"memory": memory, "eidetic": eidetic, "heads": 2}
    law(Subject(registry.get("bmojo"), options), dtype=torch.float64, **values)


@pytest.mark.parametrize(("window", "most", "time"), [(1, 1, 9), (2, 3, 40), (5, 4, 70)])
def test_the_kept_steps_are_those_of_greatest_error(window, most, time) -> None:
    """Few different errors, so that ties occur; the older of two equal steps is kept."""
    error = torch.randint(3, (2, time)).double()
    start = torch.rand(2, time) < 0.03
    none = torch.zeros(2, dtype=torch.int64)
    before = torch.cat([error.new_zeros(2, window), error], dim=1)
    chosen = choose(error.new_zeros(2, most), before, none, start)
    kept = chosen.kept.flatten(1, 2)[:, :time]
    for row in range(2):
        first = 0
        for t in range(time):
            first = t if start[row, t] else first
            older = range(first, max(first, t - window))
            want = sorted(sorted(older, key=lambda j: -error[row, j])[:most])
            n, step = divmod(t, chosen.kept.shape[2])
            begin = n * chosen.kept.shape[2]
            places = [i - most - window for i in chosen.carried[row, n].tolist()]
            places += range(begin - window, begin + chosen.kept.shape[2])
            got = sorted(places[i] for i in kept[row, t].nonzero().flatten())
            assert got == want, (row, t, n, step)


def test_steps_are_inserted_as_in_a_row() -> None:
    window, most, time = 2, 3, 30
    error = torch.randint(4, (1, time)).double()
    content = torch.arange(1.0, time + 1).double().view(1, time, 1, 1)
    empty = Kept(*(content.new_zeros(1, most, 1, 1) for _ in range(2)), error.new_zeros(1, most))
    kept = empty
    for t in range(time):
        at = slice(max(0, t - window), max(0, t - window) + 1)
        leaving = Kept(content[:, at], -content[:, at], error[:, at])
        kept = insert(kept, leaving, torch.tensor([t]), window)
        row = [
            F.pad(content[:, : t + 1], (0, 0, 0, 0, window, 0)),
            F.pad(error[:, : t + 1], (2, 0)),
        ]
        start = torch.zeros(1, t + 1, dtype=torch.bool)
        chosen = choose(empty.error, row[1], torch.zeros(1, dtype=torch.int64), start)
        want = kept_after(chosen.final, empty, (row[0], -row[0], row[1]))
        for one, other in zip(kept, want, strict=True):
            assert torch.equal(one, other), t


def test_a_surprising_step_is_kept_for_good() -> None:
    """A strange step among equal ones is remembered long after it left the window."""
    core = cores.make("bmojo", input_size=4, output_size=8, memory=2, eidetic=4).double()
    torch.manual_seed(1)
    usual, strange = torch.randn(2, 4, dtype=torch.float64)
    x = usual.repeat(1, 300, 1)
    x[0, 5] = strange
    x.requires_grad_()
    _, state = core.scan(x, core.initial_state(1), torch.zeros(1, 300, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(state.layers[0].kept.key.square().sum(), x)
    steps = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
    assert 5 in steps
    assert len(steps) == 4
    assert max(steps) <= 6  # after the strange step, its successor is a surprise, too


@pytest.mark.parametrize("option", ["memory", "eidetic", "channel_states", "heads"])
def test_invalid_options_are_named(option) -> None:
    with pytest.raises(UsageError, match=option):
        cores.make("bmojo", input_size=4, **{option: 0})
