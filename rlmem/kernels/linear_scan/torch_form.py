"""The linear scan as in-place torch operations, for installations without the C module."""

from __future__ import annotations

import torch
from torch import Tensor

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(
    gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool
) -> Tensor:
    """Same as `c_form.forward`."""
    h = value.new_empty(value.shape)
    state = _carried(torch.zeros_like(value[:, 0]) if h0 is None else h0)
    for t in _times(value.shape[1], reverse):
        state.mul_(gate if gate.dim() == 1 else gate[:, t])
        if start is not None:
            state.masked_fill_(start[:, t, None], 0)
        state.add_(value[:, t])
        h[:, t] = state
    return h


def backward(
    grad_h: Tensor,
    gate: Tensor,
    h: Tensor | None,
    h0: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> Grads:
    """Same as `c_form.backward`."""
    need_gate, need_value, need_h0 = needs
    constant = gate.dim() == 1
    wide = torch.promote_types(grad_h.dtype, torch.float64)
    grad_gate = torch.zeros_like(gate, dtype=wide) if constant else torch.empty_like(grad_h)
    grad_value = torch.empty_like(grad_h)
    carry = _carried(torch.zeros_like(grad_h[:, 0]))
    times = list(_times(grad_h.shape[1], not reverse))
    for t, before in zip(times, [*times[1:], None], strict=True):
        carry.add_(grad_h[:, t])
        if need_value:
            grad_value[:, t] = carry
        if need_gate:
            h_before = h0 if before is None or h is None else h[:, before]
            product = torch.zeros_like(carry) if h_before is None else carry * h_before.conj()
            if start is not None:
                product.masked_fill_(start[:, t, None], 0)
            if constant:
                grad_gate.add_(product.sum(0))
            else:
                grad_gate[:, t] = product
        carry.mul_((gate if constant else gate[:, t]).conj())
        if start is not None:
            carry.masked_fill_(start[:, t, None], 0)
    return (
        grad_gate.to(gate.dtype) if need_gate else None,
        grad_value if need_value else None,
        carry.to(grad_h.dtype) if need_h0 else None,
    )


def _times(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _carried(x: Tensor) -> Tensor:
    """A copy for in-place updates; bfloat16 is carried in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
