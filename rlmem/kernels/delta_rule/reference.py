"""Definition of the delta rule: a plain loop, in any dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    state: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Forget, write and read, step by step.

    Same arguments and results as `rlmem.kernels.delta_rule`.
    """
    if k.dim() == 4:
        k, v, beta = k.unsqueeze(2), v.unsqueeze(2), beta.unsqueeze(2)
    rows, time, writes, heads, size = k.shape
    S = k.new_zeros(rows, heads, size, v.shape[-1]) if state is None else state
    outputs = []
    for t in range(time):
        if start is not None:
            S = torch.where(start[:, t, None, None, None], 0, S)
        if g is not None:
            # The state is zero at a start, so the decay is not read.
            decay = g[:, t] if start is None else torch.where(start[:, t, None], 0, g[:, t])
            S = decay.exp()[..., None, None] * S
        for n in range(writes):
            key, value = k[:, t, n, :, :, None], v[:, t, n, :, None]
            old = (S * key).sum(-2, keepdim=True)
            S = S + beta[:, t, n, :, None, None] * key * (value - old)
        outputs.append((S * q[:, t, :, :, None]).sum(-2))
    return torch.stack(outputs, dim=1), S
