"""The memory that learns at test time on CUDA devices: launches the Triton kernels.

Rules whose weights are linear in the gradients, in float32. The kernels find the pieces of a row
by themselves, so nothing waits for the device. The backward computes the states before the pieces
again: one for each `rule.chunk` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from rlmem.kernels.episodes import ages, next_age
from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.titans import triton_kernels
from rlmem.kernels.titans.reference import Learned, Matrices, Rates
from rlmem.kernels.titans.rule import MIN_DELTA, Rule

MAX_CHUNK = 16  # the tokens of a program
MAX_WIDTH = 128  # numbers of a value; its error is kept in registers
BLOCK = 16  # the sides of a tile; the backward of two matrices spills with 32
WARPS = 4


def supports(v: Tensor, rule: Rule) -> bool:
    """Whether there are kernels for this dtype, these sizes and this rule."""
    sizes = v.shape[-1] <= MAX_WIDTH and rule.chunk <= MAX_CHUNK
    plain = rule.linear and rule.window == 1 and rule.bias in ("l2", "huber")
    return v.dtype == torch.float32 and sizes and plain


class Coefficients(NamedTuple):
    """By token [B, T, H, ...]: `past` [3], of the piece's first A and momentum, and of the momentum
    in the momentum; `effect` and `push` [J], of the piece's j-th token in A and in the momentum.
    """

    past: Tensor
    effect: Tensor
    push: Tensor


def coefficients(rates: Rates, border: Tensor, place: Tensor, size: int) -> Coefficients:
    """`place` [B, T] is a token's place in its piece, which begins at a `border` and has at most
    `size` tokens."""
    theta, eta, alpha, gamma, _ = rates.filled()
    shape = (*theta.shape, size + 2)
    here = place[..., None] == torch.arange(size, device=place.device)
    added = here[:, :, None] * (theta * gamma)[..., None]
    opens = border[..., None, None]
    # The last two columns are the coefficients of the momentum and of A before the piece.
    value = torch.cat([added, torch.where(opens, eta[..., None], 0)], dim=-1)
    gate = eta[..., None].expand(value.shape)
    momentum = linear_scan(gate.flatten(2), value.flatten(2), start=border).view(value.shape)
    keep = (1 - alpha)[..., None]
    value = torch.cat([momentum, torch.where(opens, keep, 0)], dim=-1)
    gate = keep.expand(shape)
    weight = linear_scan(gate.flatten(2), value.flatten(2), start=border).view(shape)
    past = torch.cat([weight[..., size + 1 :], weight[..., size:-1], momentum[..., size:]], dim=-1)
    return Coefficients(past, weight[..., :size], momentum[..., :size])


def split_row(age: Tensor, start: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Borders [B, T] between pieces, each token's place in its piece, and the marks of tokens."""
    age = ages(age, start)
    opens = age % chunk == 0
    border = opens.clone()
    border[:, 0] = True
    place = torch.arange(start.shape[1], device=start.device)
    first = torch.where(border, place, 0).cummax(1).values
    marks = border.to(torch.uint8) + 2 * start.to(torch.uint8) + 4 * opens.to(torch.uint8)
    return border, place - first, marks


class Row(NamedTuple):
    """A row as the kernels read it. Matrices of a head are one vector of N numbers."""

    q: Tensor
    k: Tensor
    v: Tensor
    delta: Tensor
    mixed: Coefficients
    marks: Tensor
    first: Tensor
    weight: Tensor
    momentum: Tensor
    anchor: Tensor


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule,
) -> tuple[Tensor, Learned]:
    """Same as `torch_form.forward`."""
    border, place, marks = split_row(state.age, start, rule.chunk)
    mixed = coefficients(rates, border, place, min(rule.chunk, q.shape[1]))
    row = _row(q, k, v, rates, mixed, marks, first, state)
    y, *after = _forward(row, first, rule, slots=2)
    weight, momentum, anchor = (_unpack(x, first) for x in after)
    return y, Learned(weight, momentum, anchor, next_age(state.age, start))


def backward(
    grad_y: Tensor,
    grad_state: Sequence[Matrices],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule,
) -> list[Tensor]:
    """Gradients of q, k, v, the five rates, and the first A, A, momentum and anchor; `grad_state`
    are those of A, momentum and anchor after the row. Autograd must be enabled."""
    border, place, marks = split_row(state.age, start, rule.chunk)
    leaves = [rate.detach().requires_grad_() for rate in rates.filled()[:4]]
    size = min(rule.chunk, q.shape[1])
    mixed = coefficients(Rates(*leaves), border, place, size)
    with torch.no_grad():
        fixed = Coefficients(*(x.detach() for x in mixed))
        row = _row(q, k, v, rates, fixed, marks, first, state)
        states = _states(row, -(-q.shape[1] // rule.chunk))
        _forward(row, first, rule, states=states)
        found = _backward(
            row, grad_y.contiguous(), [_pack(x) for x in grad_state], states, first, rule
        )
    into_q, into_k, into_v, into_delta, *into_mixed, into_first, into_A, into_S, into_Z = found
    into_delta = torch.where(rates.filled()[4] < MIN_DELTA, 0, into_delta)
    into_rates = torch.autograd.grad(mixed, leaves, into_mixed)
    matrices = [_unpack(x, first) for x in (into_first.sum(0), into_A, into_S, into_Z)]
    return [
        into_q,
        into_k,
        into_v,
        *into_rates,
        into_delta,
        *(w for kind in matrices for w in kind),
    ]


def _row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    mixed: Coefficients,
    marks: Tensor,
    first: Matrices,
    state: Learned,
) -> Row:
    q, k, v, delta = (x.contiguous() for x in (q, k, v, rates.filled()[4]))
    mixed = Coefficients(*(x.contiguous() for x in mixed))
    packed = _pack(first), _pack(state.weight), _pack(state.momentum), _pack(state.anchor)
    return Row(q, k, v, delta, mixed, marks, *packed)


def _pack(matrices: Matrices) -> Tensor:
    """[..., in, out] matrices as vectors [..., N]."""
    return torch.cat([x.flatten(-2) for x in matrices], dim=-1)


def _unpack(x: Tensor, like: Matrices) -> Matrices:
    parts = x.split([w[0].numel() for w in like], dim=-1)
    return tuple(part.unflatten(-1, w.shape[1:]) for part, w in zip(parts, like, strict=True))


def _states(row: Row, slots: int) -> Tensor:
    """Memory for A and momentum before pieces."""
    rows, heads, numbers = row.weight.shape
    return row.weight.new_empty(rows, slots, heads, 2, numbers)


def _forward(
    row: Row, first: Matrices, rule: Rule, states: Tensor | None = None, slots: int = 2
) -> tuple[Tensor, ...]:
    """Answers, and A, momentum and anchor after the row. Fills `states`."""
    states = _states(row, slots) if states is None else states
    results = (torch.empty_like(row.v), *(torch.empty_like(row.weight) for _ in range(3)))
    tensors = (*_flat(row), states, _scratch(row, first, rule, 3, 1), *results)
    _launch(triton_kernels.forward_kernel, tensors, row, states, first, rule)
    return results


def _backward(
    row: Row, grad_y: Tensor, grad_state: list[Tensor], states: Tensor, first: Matrices, rule: Rule
) -> list[Tensor]:
    """Gradients of the tensors of the row, without the marks."""
    hidden, mixed = first[-1].shape[1], row.mixed
    a, back, x, for_hidden, for_x, for_back = (
        row.k.new_empty(*row.k.shape[:3], hidden if len(first) == 2 else 0) for _ in range(6)
    )
    square = torch.empty_like(row.delta)
    raw, wrong, for_wrong, into_v = (torch.empty_like(row.v) for _ in range(4))
    into_q, into_k = torch.empty_like(row.q), torch.empty_like(row.k)
    into_past, into_effect = torch.zeros_like(mixed.past), torch.empty_like(mixed.effect)
    rest = (row, states, first, rule)
    fixed = (row.marks, row.first, row.weight, row.anchor, states)
    errors = (row.k, row.v, row.delta, *fixed, a, back, square, raw, wrong)
    _launch(triton_kernels.error_kernel, errors, *rest, mixed=False)
    state = (*mixed, row.marks, row.first, row.weight, row.momentum, row.anchor, states)
    grads = (for_hidden, for_x, for_wrong, for_back)
    reads = (grad_y, row.q, row.k, *state, a, back, square, x, wrong, *grads)
    results = (into_q, into_k, into_past, into_effect)
    _launch(triton_kernels.read_backward_kernel, (*reads, *results), *rest)
    into_delta, into_first = torch.zeros_like(row.delta), torch.zeros_like(row.weight)
    into_state = [x.clone() for x in grad_state]
    ends, in_A, in_S = (torch.zeros_like(x) for x in mixed)
    learns = (grad_y, *_flat(row), states, a, back, square, x, raw, wrong, *grads)
    more = (into_k, into_v, into_delta, ends, in_A, in_S, into_first, *into_state)
    _launch(triton_kernels.learn_backward_kernel, (*learns, *more), *rest)
    into_mixed = into_past + ends, into_effect + in_A, in_S
    return [into_q, into_k, into_v, into_delta, *into_mixed, into_first, *into_state]


def _flat(row: Row) -> tuple[Tensor, ...]:
    return *row[:4], *row.mixed, *row[5:]


def _scratch(row: Row, first: Matrices, rule: Rule, hidden: int, values: int) -> Tensor:
    """Memory for a piece: so many times its hidden units, and its values."""
    size = hidden * first[-1].shape[1] + values * row.v.shape[-1]
    return row.weight.new_empty(*row.weight.shape[:2], _tokens(rule), size)


def _tokens(rule: Rule) -> int:
    """The tokens of a piece in a program; a tensor core multiplies at least 16."""
    return max(16, triton.next_power_of_2(rule.chunk))


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, ...],
    row: Row,
    states: Tensor,
    first: Matrices,
    rule: Rule,
    mixed: bool = True,
) -> None:
    """Launch one program for each head of each row."""
    rows, time, heads, keys = row.k.shape
    hidden, values = first[-1].shape[1:]
    with torch.cuda.device_of(row.k):
        kernel[(rows * heads,)](
            *tensors,
            0.0 if rule.limit is None else float(rule.limit),
            time,
            heads,
            keys,
            hidden,
            values,
            *([row.mixed.effect.shape[-1]] if mixed else []),
            rule.chunk,
            states.shape[1],
            LAYERS=len(first),
            LIMITED=rule.limit is not None,
            HUBER=rule.bias == "huber",
            C=_tokens(rule),
            BV=max(16, triton.next_power_of_2(values)),
            BLOCK=BLOCK,
            num_warps=WARPS,
            num_stages=1,
            maxnreg=255,  # the compiler chooses 32 for large kernels, and spills
            enable_fp_fusion=True,
        )
