"""The self-referential weight matrix against its equations."""

from __future__ import annotations

import torch

from tests.cores.oracle import equals_the_loop


def softmax(x: torch.Tensor) -> torch.Tensor:
    return x.exp() / x.exp().sum()


def test_equals_a_loop_over_its_equations() -> None:
    def loop(p, x):
        W, past, outputs = list(p["W_0"]), [], []
        for x_t in x:
            values, u = [], p["conv.bias"]
            past.append(p["W_in.weight"] @ x_t)
            for j, each in enumerate(past[:-4:-1]):
                u = u + p["conv.weight"][:, -1 - j] * each
            for h, given in enumerate(u.split(4)):
                f = softmax(p["gain"][h] * given / (given.square().mean() + 1e-5).sqrt())
                parts = W[h].split((4, 4, 4, 4))
                y, q, k, b = (part @ f for part in parts)
                at_q, at_k = softmax(q), softmax(k)
                W[h] = torch.cat(
                    [
                        part
                        + 1 / (1 + torch.exp(-b[i])) * torch.outer(part @ at_q - part @ at_k, at_k)
                        for i, part in enumerate(parts)
                    ]
                )
                values.append(y)
            skip = p["skip.weight"] @ x_t + p["skip.bias"]
            outputs.append(skip + p["W_out.weight"] @ torch.cat(values))
        return torch.stack(outputs)

    equals_the_loop("srwm", loop, heads=2, head_size=4, conv_size=3)
