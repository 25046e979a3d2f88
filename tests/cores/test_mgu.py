"""The minimal gated unit against its equations."""

from __future__ import annotations

import torch

from tests.cores.oracle import equals_the_loop


def test_equals_a_loop_over_its_equations():
    def loop(p, x):
        h, outputs = torch.zeros(6, dtype=x.dtype), []
        (w_f, w_c), (u_f, u_c), (b_f, b_c) = (
            p[key].split(6) for key in ("weight_ih", "weight_hh", "bias")
        )
        for x_t in x:
            f = 1 / (1 + torch.exp(-(w_f @ x_t + u_f @ h + b_f)))
            candidate = torch.tanh(w_c @ x_t + u_c @ (f * h) + b_c)
            h = (1 - f) * h + f * candidate
            outputs.append(h)
        return torch.stack(outputs)

    equals_the_loop("mgu", loop)
