"""Rows that are shared out over ranks: each rank scans its piece of every row.

The state after a piece is a linear function of the state before it, for diagonal recurrences
`keep * state + add`, where `keep` is the product of the gates, and for matrix memories the decayed
state plus the piece's own. Each rank computes this map of its piece alone. One exchange of the maps
gives every rank the state before its piece, from which it scans (LASP-2, Sun et al. 2025, arXiv
2502.07563; Martin and Cundy 2018, arXiv 1709.04057). The rows may be as long as the memory of all
ranks together allows, and a piece costs about two scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.base import LinearCore, MemoryCore, check_inputs, check_state, registry
from rlmem.cores.conv import next_window
from rlmem.cores.stack import Stack
from rlmem.errors import UsageError
from rlmem.kernels import linear_scan
from rlmem.ranks.group import number, several
from rlmem.ranks.pieces import gather_pieces, lengths, tied

Ends = tuple[Any, Any]  # the states before this rank's piece and after the whole row


@runtime_checkable
class SharesRows(Protocol):
    """A core other than a `LinearCore` or a `Stack` that supports `scan_over_ranks`."""

    def ends_over_ranks(self, x: Tensor, state: Any, start: Tensor) -> Ends:
        """The states before this rank's piece and after the whole row, from that before the row."""


def scan_over_ranks(
    core: MemoryCore[Any], x: Float[Tensor, "B T I"], state: Any, start: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T O"], Any]:
    """`core.scan` of rows whose pieces are on different ranks, in the order of the ranks.

    Each rank passes its own piece `x` and `start`; pieces may have different lengths. `state` is
    the state before the whole row, the same on all ranks. Returns the outputs of the piece, and the
    state after the whole row on all ranks. Gradients are exact for the sum of all ranks' losses:
    those of `x` on its own rank; those of parameters and of `state`, which all ranks have, as parts
    whose sum over the ranks is the gradient. All ranks must call this, and its backward, together.
    In a single process it is `core.scan`. Raises `UsageError` if the core does not support it.
    """
    if not can_share_rows(core):
        names = ", ".join(supporting())
        raise UsageError(
            f"{type(core).__name__} cannot share out rows over ranks; cores that can: {names}, and "
            "stack of these"
        )
    if not several():
        return core.scan(x, state, start)
    rows = check_inputs(core, "scan", x, start, dims=3)
    check_state(core, "scan", state, core.initial_state(1), rows)
    if isinstance(core, Stack):
        return core.scan_blocks(scan_over_ranks, x, state, start)
    if isinstance(core, LinearCore):
        before, after = diagonal_ends(*core.encode(x), state, start)
    else:
        assert isinstance(core, SharesRows)
        before, after = core.ends_over_ranks(x, state, start)
    return core.scan(x, before, start)[0], after


def can_share_rows(core: MemoryCore[Any]) -> bool:
    """Whether `scan_over_ranks` supports this core."""
    if isinstance(core, Stack):
        return all(map(can_share_rows, core.cores()))
    return isinstance(core, LinearCore | SharesRows)


def supporting() -> Iterator[str]:
    """The names of the cores that support `scan_over_ranks`, without stacks."""
    for name in registry.names():
        core = registry.get(name)
        if isinstance(core, type) and (
            issubclass(core, LinearCore) or hasattr(core, "ends_over_ranks")
        ):
            yield name


def compose(step: Callable[[int, Tensor], Tensor], state: Tensor, pieces: Tensor) -> Ends:
    """Apply the maps of the ranks' `pieces` one after the other: `step(rank, state)`."""
    before = state
    for rank in range(len(pieces)):
        if rank == number():
            before = tied(state, pieces)
        state = step(rank, state)
    return before, state


def diagonal_ends(
    gate: Tensor, value: Tensor, state: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """The ends of `h[t] = gate[t] * h[t-1] + value[t]`, with the arguments of `linear_scan`."""
    one = torch.ones_like(state)
    keep = linear_scan(gate, torch.zeros_like(value), one, start)[:, -1]
    add = linear_scan(gate, value, None, start)[:, -1]
    reset = start.any(1, keepdim=True).to(keep.dtype)
    keep, add = keep.to(state.dtype), add.to(state.dtype)
    maps = gather_pieces(torch.cat([keep, add, reset.to(state.dtype)], dim=-1))
    width = state.shape[-1]

    def follow(rank: int, h: Tensor) -> Tensor:
        keep, add, reset = maps[rank].split([width, width, 1], dim=-1)
        # A selection: a start also removes NaN and Inf.
        return torch.where(reset != 0, add, keep * h + add)

    return compose(follow, state, maps)


def window_ends(x: Tensor, window: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of a convolution's window [B, W - 1, D], whose inputs are `x` [B, T, D]."""
    size = window.shape[1]
    if size == 0:
        return window, window
    own = next_window(x.to(window.dtype), torch.zeros_like(window), start)
    reset = start.any(1)[:, None, None].to(own.dtype).expand(-1, 1, own.shape[-1])
    pieces, times = gather_pieces(torch.cat([own, reset], dim=1)), lengths(x.shape[1])

    def follow(rank: int, before: Tensor) -> Tensor:
        own, reset = pieces[rank].split([size, 1], dim=1)
        moved = F.pad(before[:, times[rank] :], (0, 0, 0, min(size, times[rank])))
        return torch.where(reset != 0, own, moved + own)

    return compose(follow, window, pieces)


def matrix_ends(
    own: Tensor, passed: Callable[[Tensor, int], Tensor], state: Tensor, time: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """The ends of a matrix memory [B, H, K, V]; a state before T steps leaves `passed(state, T)`.

    `own` is the state that this rank's piece of `time` steps leaves without a state before it.
    """
    reset = start.any(1)[:, None].to(own.dtype)
    pieces = gather_pieces(torch.cat([own.flatten(1), reset], dim=1))
    times = lengths(time)

    def follow(rank: int, before: Tensor) -> Tensor:
        own, reset = pieces[rank][:, :-1].view_as(state), pieces[rank][:, -1, None, None, None]
        return torch.where(reset != 0, own, passed(before, times[rank]) + own)

    return compose(follow, state, pieces)
