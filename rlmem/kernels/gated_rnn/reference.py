"""Definition of the gated recurrent networks: one step, and a plain loop over it."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.errors import unknown
from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT, Tensors
from rlmem.kernels.native import FLOATS, check_shapes, check_tensors


def gated_step(
    cell: str, projected: Tensor, weight: Tensor, bias: Tensor | None, state: Tensors
) -> Tensors:
    """The state after one time step without resets; `projected` [B, H, G D].

    The other arguments are those of `gated_rnn`. Raises `ValueError` if an argument has a wrong
    shape, dtype, layout or device.
    """
    if cell not in CELLS:
        raise unknown("cell", cell, CELLS)
    kind = CELLS[cell]
    states = {f"state[{i}]": each for i, each in enumerate(state)}
    named = {"projected": projected, "weight": weight, "bias": bias}
    check_tensors("gated_step", named | states, (*FLOATS, torch.float16))
    if projected.dim() != 3 or 0 in projected.shape or projected.shape[-1] % kind.gates:
        raise ValueError(
            f"gated_step: projected must be [B, H, {kind.gates} D], each at least 1, not "
            f"{list(projected.shape)}"
        )
    if len(state) != kind.states:
        raise ValueError(
            f"gated_step: state of {cell} must be {kind.states} tensors, not {len(state)}"
        )
    rows, heads, total = projected.shape
    width = total // kind.gates
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        name: (each, (rows, heads, width)) for name, each in states.items()
    }
    wanted |= {"weight": (weight, (heads, width, total)), "bias": (bias, (heads, PER_UNIT * width))}
    check_shapes("gated_step", wanted)
    return step_unchecked(cell, projected, weight, bias, state)


def step_unchecked(
    cell: str, projected: Tensor, weight: Tensor, bias: Tensor | None, state: Tensors
) -> Tensors:
    """`gated_step` for callers that have checked the arguments."""
    if bias is None:
        bias = projected.new_zeros(*weight.shape[:1], PER_UNIT * weight.shape[1])
    recurrent = recur(state[0], weight)
    return CELLS[cell].forward(projected, recurrent, bias, state)[0]


def recur(h: Tensor, weight: Tensor) -> Tensor:
    """The state's contribution to the pre-activations, per head: [B, H, D] to [B, H, G D]."""
    device = h.device.type
    if torch.is_autocast_enabled(device):
        # As in the operators: in the dtype of the state.
        with torch.autocast(device, enabled=False):
            return recur(h, weight.to(h.dtype))
    return torch.matmul(h.transpose(0, 1), weight).transpose(0, 1)


def gated_rnn_reference(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensors | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensors]:
    """Same arguments and result as `rlmem.kernels.gated_rnn`."""
    rows, _, heads, _ = projected.shape
    if state is None:
        zeros = projected.new_zeros(rows, heads, weight.shape[1])
        state = (zeros,) * CELLS[cell].states
    outputs = []
    for t, projected_t in enumerate(projected.unbind(1)):
        if start is not None:
            state = tuple(torch.where(start[:, t, None, None], 0, s) for s in state)
        state = step_unchecked(cell, projected_t, weight, bias, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state
