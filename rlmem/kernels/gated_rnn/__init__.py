"""Gated recurrent networks, GRU, LSTM and sLSTM: time and the matrix product in one loop."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from rlmem.errors import unknown
from rlmem.kernels.gated_rnn.cells import CELLS, PARTS
from rlmem.kernels.gated_rnn.ops import rnn
from rlmem.kernels.gated_rnn.product import project
from rlmem.kernels.gated_rnn.reference import gated_rnn_reference, gated_step

__all__ = ["CELLS", "gated_rnn", "gated_rnn_reference", "gated_step", "project"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_DEVICES = ("cpu", "cuda", "meta")


def gated_rnn(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: tuple[Tensor, ...] | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs `h` [B, T, H, D] of `cell` for all t, and its state after the row.

    `cell` is one of (gates and states in this order; equations in `cells.py`)

        gru        r, z, n     h           Cho et al. 2014, in the form of torch.nn.GRU
        lstm       i, f, g, o  h, c        Hochreiter and Schmidhuber 1997, as in torch.nn.LSTM
        slstm      i, f, z, o  h, c, n, m  Beck et al. 2024, arXiv 2405.04517, sigmoid forget gate
        slstm_exp  i, f, z, o  h, c, n, m  the same with an exponential forget gate

    `projected` [B, T, H, G D] is the input's share of the G gates of D units in each of H heads;
    `h[t-1] @ weight`, head by head, is the state's, `weight` [H, D, G D]. `bias` [H, 4 D] is added
    to the gates; for the GRU r, z, n and, inside the product with r, to the state's share of n.
    `state` holds tensors [B, H, D], zero if not given; `start` [B, T] is bool. An sLSTM's state is
    fresh, that is without a stabiliser yet, where n = 0.

    At a start the state is not read: what it holds, be it NaN, leaves no trace in `h` nor in any
    gradient. float32, float64 and bfloat16 (as float32), mixed ones promoted. Differentiable once,
    in all but start. A ValueError says what is wrong with the arguments.
    """
    _check(cell, projected, weight, bias, state, start)
    rows, _, heads, _ = projected.shape
    width = weight.shape[1]
    if bias is None:
        bias = weight.new_zeros(heads, PARTS * width)
    if state is None:
        state = (projected.new_zeros(rows, heads, width),) * CELLS[cell].states
    given = [projected, weight, bias, *state]
    dtype = reduce(torch.promote_types, (x.dtype for x in given), torch.float32)
    projected, weight, bias, *states = (x.to(dtype) for x in given)
    first = torch.stack(states, dim=1)
    save = torch.is_grad_enabled() and any(
        x.requires_grad for x in (projected, weight, bias, first)
    )
    h, last, _, _ = rnn(cell, projected, weight, bias, first, start, save)
    return h, tuple(s.clone() for s in last.unbind(1))


def _check(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: tuple[Tensor, ...] | None,
    start: Tensor | None,
) -> None:
    if cell not in CELLS:
        raise unknown("cell", cell, CELLS)
    kind = CELLS[cell]
    if projected.dim() != 4 or 0 in projected.shape or projected.shape[-1] % kind.gates:
        raise ValueError(
            f"gated_rnn: projected must be [B, T, H, {kind.gates} D], each at least 1, "
            f"not {list(projected.shape)}"
        )
    rows, time, heads, total = projected.shape
    width = total // kind.gates
    named = {"projected": projected, "weight": weight}
    shapes = {"weight": [heads, width, total]}
    if bias is not None:
        named["bias"], shapes["bias"] = bias, [heads, PARTS * width]
    if state is not None:
        if len(state) != kind.states:
            raise ValueError(
                f"gated_rnn: state of {cell} must be {kind.states} tensors, not {len(state)}"
            )
        for i, each in enumerate(state):
            named[f"state[{i}]"], shapes[f"state[{i}]"] = each, [rows, heads, width]
    for name, each in named.items():
        if each.dtype not in _DTYPES:
            raise ValueError(f"gated_rnn: {name} is {each.dtype}; allowed are {_DTYPES}")
    if start is not None:
        named["start"], shapes["start"] = start, [rows, time]
        if start.dtype != torch.bool:
            raise ValueError(f"gated_rnn: start must be torch.bool, not {start.dtype}")
    for name, shape in shapes.items():
        if list(named[name].shape) != shape:
            raise ValueError(f"gated_rnn: {name} must be {shape}, not {list(named[name].shape)}")
    devices = {name: str(each.device) for name, each in named.items()}
    if len(set(devices.values())) > 1 or projected.device.type not in _DEVICES:
        raise ValueError(f"gated_rnn: all tensors must be on one device of {_DEVICES}: {devices}")
