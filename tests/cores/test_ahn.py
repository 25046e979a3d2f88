"""The artificial hippocampus network against its equations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem.cores.base import registry
from rlmem.testing import row_laws
from rlmem.testing.law import Subject
from tests.cores.oracle import equals_the_loop

M, D = 3, 4


def normed(x: torch.Tensor, p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x @ x + 1e-6).sqrt()


def test_equals_a_loop_over_its_equations() -> None:
    def loop(p, x):
        p = {key.removeprefix("blocks.0."): each for key, each in p.items()}
        S = [torch.zeros(D, D, dtype=x.dtype)] * 2
        past, outputs = [], []
        for t, x_t in enumerate(x):
            x_t = p["embed.weight"] @ x_t + p["embed.bias"]
            u = normed(x_t, p, "attention_norm")
            q, k, v = (each.split(D) for each in (p["attention.qkv.weight"] @ u).chunk(3))
            gates = p["attention.W_gates.weight"] @ u + p["attention.W_gates.bias"]
            beta, alpha, share = (1 / (1 + torch.exp(-each)) for each in gates.chunk(3))
            past.append((k, v, beta, alpha))
            attended, remembered = [], []
            for h in range(2):
                # The step before the window is written; the window is read, and then the memory.
                if t > M:
                    key, value, b, a = (each[h] for each in past[t - M - 1])
                    key, held = unit(key), a * S[h]
                    S[h] = held + b * torch.outer(key, value - held.t() @ key)
                window = past[max(0, t - M) :]
                weights = torch.stack([q[h] @ each[0][h] for each in window]) / D**0.5
                weights = weights.exp() / weights.exp().sum()
                attended.append(sum(w * e[1][h] for w, e in zip(weights, window, strict=True)))
                o = S[h].t() @ unit(q[h])
                remembered.append(share[h] * o / (o.square().mean() + 1e-5).sqrt())
            y = p["attention.out.weight"] @ torch.cat(attended)
            x_t = x_t + y + p["attention.W_S.weight"] @ torch.cat(remembered)
            hidden = F.relu(p["ff.0.weight"] @ normed(x_t, p, "ff_norm") + p["ff.0.bias"])
            outputs.append(x_t + p["ff.2.weight"] @ hidden + p["ff.2.bias"])
        return torch.stack(outputs)

    equals_the_loop("ahn", loop, heads=2, memory=M, position="none")


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (row_laws.scan_equals_a_loop_over_step, {"output_size": 8}),
        (row_laws.a_packed_row_equals_its_episodes_scanned_separately, {}),
        (row_laws.splitting_a_row_changes_nothing, {}),
    ],
)
@pytest.mark.parametrize("memory", [1, 4])
def test_laws_with_a_window_shorter_than_the_row(law, values, memory) -> None:
    subject = Subject(registry.get("ahn"), {"memory": memory, "heads": 2})
    law(subject, dtype=torch.float64, **values)
