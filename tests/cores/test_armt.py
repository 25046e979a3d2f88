"""The associative recurrent memory transformer against its equations, and its segments."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem import cores
from rlmem.cores.armt import dpfp
from rlmem.cores.base import registry
from rlmem.errors import UsageError
from rlmem.testing import row_laws
from rlmem.testing.law import Subject
from tests.cores.oracle import equals_the_loop

S, N, D, NU = 3, 2, 4, 2


def normed(x: torch.Tensor, p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def features(x: torch.Tensor) -> torch.Tensor:
    r = [F.relu(each) for each in (*x, *(-x))]
    y = [r[i] * r[(i + j) % (2 * D)] for j in range(1, NU + 1) for i in range(2 * D)]
    return torch.stack(y) / (sum(each * each for each in y) + 1e-6).sqrt()


def test_equals_a_loop_over_its_equations() -> None:
    def loop(p, x):
        p = {key.removeprefix("blocks.0."): each for key, each in p.items()}
        A = [torch.zeros(2 * D * NU, D, dtype=x.dtype)] * 2
        past, outputs = [], []
        for t, x_t in enumerate(x):
            x_t = p["embed.weight"] @ x_t + p["embed.bias"]
            u = normed(x_t, p, "attention_norm")
            q, k, v = (p["attention.qkv.weight"] @ u).view(3, 2, D)
            past.append((k, v))
            asked = (p["attention.W_query.weight"] @ u).view(2, D)
            attended, read = [], []
            for h in range(2):
                window = past[max(0, t - S) :]
                weights = torch.stack([q[h] @ each[0][h] for each in window]) / D**0.5
                weights = weights.exp() / weights.exp().sum()
                attended.append(sum(w * e[1][h] for w, e in zip(weights, window, strict=True)))
                read.append(A[h].t() @ features(asked[h]))
            y = p["attention.out.weight"] @ torch.cat(attended)
            x_t = x_t + y + p["attention.W_read.weight"] @ torch.cat(read)
            hidden = F.relu(p["ff.0.weight"] @ normed(x_t, p, "ff_norm") + p["ff.0.bias"])
            outputs.append(x_t + p["ff.2.weight"] @ hidden + p["ff.2.bias"])
            if (t + 1) % S == 0:
                A = written(p, A, past[-S:])
        return torch.stack(outputs)

    sizes = {"heads": 2, "segment": S, "tokens": N, "nu": NU, "position": "none"}
    equals_the_loop("armt", loop, time=32, **sizes)


def written(p, A, segment):
    """The memories after a segment."""
    for i in range(N):
        seen = []
        for h in range(2):
            query, place = p["attention.token_query"][i, h], p["attention.token_place"][i, h]
            scores = torch.stack([query @ k[h] for k, _ in segment]) / D**0.5 + place
            weights = scores.exp() / scores.exp().sum()
            seen.append(sum(w * v[h] for w, (_, v) in zip(weights, segment, strict=True)))
        m = p["attention.tokens"][i] + p["attention.out.weight"] @ torch.cat(seen)
        m = normed(m, p, "attention.token_norm")
        keys, values = (p["attention.W_kv.weight"] @ m).view(2, 2, D)
        beta = 1 / (1 + torch.exp(-p["attention.W_beta.weight"] @ m - p["attention.W_beta.bias"]))
        for h, k in enumerate(map(features, keys)):
            A = [*A[:h], A[h] + beta[h] * torch.outer(k, values[h] - A[h].t() @ k), *A[h + 1 :]]
    return A


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (row_laws.scan_equals_a_loop_over_step, {"output_size": 8}),
        (row_laws.a_packed_row_equals_its_episodes_scanned_separately, {}),
        (row_laws.splitting_a_row_changes_nothing, {}),
    ],
)
@pytest.mark.parametrize(
    ("segment", "tokens"), [(4, 3), pytest.param(1, 1, marks=pytest.mark.slow)]
)
def test_laws_with_segments_shorter_than_the_row(law, values, segment, tokens) -> None:
    options = {"segment": segment, "tokens": tokens, "heads": 2}
    law(Subject(registry.get("armt"), options), dtype=torch.float64, **values)


def test_the_memory_changes_at_the_ends_of_segments_only() -> None:
    core = cores.make("armt", input_size=5, segment=4, heads=1).double()
    state = core.initial_state(1)
    for t in range(14):
        # A new episode begins at step 6, in the middle of a segment.
        start, before = torch.tensor([t == 6]), state.layers[0].A
        _, state = core.step(torch.randn(1, 5, dtype=torch.float64), state, start)
        after = state.layers[0].A
        if t == 6:
            assert not after.any()
        else:
            assert torch.equal(before, after) == (t not in (3, 9, 13))


def test_features_have_length_one_and_see_products_of_entries() -> None:
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(dpfp(x, 3).norm(dim=-1), torch.ones(7).double(), atol=1e-5, rtol=0)
    y = dpfp(torch.tensor([[1.0, 2.0]]), 1)
    torch.testing.assert_close(y, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), atol=1e-6, rtol=0)
    assert dpfp(x, 3).shape == (7, 30)


@pytest.mark.parametrize("option", ["segment", "tokens", "nu", "heads"])
def test_invalid_options_are_named(option) -> None:
    with pytest.raises(UsageError, match=option):
        cores.make("armt", input_size=4, **{option: 0})
