"""Recurrent mode: rows of stored data through a core, each slice from the state stored with it.

torchrl loads the stored state at a row's first step and at every `is_init`, which marks the first
steps of episodes and of slices alike; `PackedState.valid` tells them apart. A core's `scan` takes a
single state per row, the first. To load further states, rows are cut at these steps. A flat batch
of slices is cut as well; otherwise it would run as one long row, step by step.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.cores.base import LinearCore, MemoryCore
from rlmem.torchrl.state import PackedState, Packing

States = Literal["all", "last", "none"]


class ScanResult(NamedTuple):
    """Outputs, and if requested packed states: after all T steps, or after the last (S = 1)."""

    y: Float[Tensor, "B T O"]
    states: PackedState | None


def scan_stored(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    stored: PackedState,
    *,
    cut: bool,
    states: States,
) -> ScanResult:
    """Scan rows that were `stored` with the state before each step, [B, T, ...].

    Rows are cut at every start if `cut`, else only to load a state; rows of a `LinearCore` never.
    `states` requests the states after "all" steps, without gradients, or after the "last" step. The
    last one is a by-product. All are one for a `LinearCore` only; otherwise a loop over `step`
    computes them.
    """
    first = stored.at((slice(None), 0))
    loads = start & stored.valid()
    loads[:, 0] = False
    # The first step starts an episode only if no state is stored there, whatever `start` is.
    start = torch.cat([~first.valid()[:, None], start[:, 1:]], dim=1)
    if isinstance(core, LinearCore):
        # Loading states adds a term to the input. A compiled graph always contains it.
        load = torch.compiler.is_compiling() or bool(loads.any())
        y, h = core.scan_states(
            x, packing.unpack(first), start, (loads, packing.unpack(stored)) if load else None
        )
        kept = {"all": h, "last": h[:, -1:], "none": None}[states]
        after = None if kept is None else packing.pack(kept.detach(), dims=2)
        return ScanResult(y, after)
    if x.shape[1] > 1 and (cut or bool(loads.any())):
        return _scan_pieces(core, packing, x, start, stored, states)
    return _scan_whole(core, packing, x, start, first, states)


def _scan_whole(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    first: PackedState,
    states: States,
) -> ScanResult:
    """Scan rows that load only their first state."""
    state = packing.unpack(first)
    y, final = core.scan(x, state, start)
    if states == "last":
        return ScanResult(y, packing.pack(final).at((slice(None), None)))
    return ScanResult(y, _states(core, packing, x, state, start) if states == "all" else None)


@torch.no_grad()
def _states(
    core: MemoryCore[Any], packing: Packing, x: Tensor, state: Any, start: Tensor
) -> PackedState:
    """The packed states after each step, by a loop over `step`."""
    steps = []
    for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
        _, state = core.step(x_t, state, start_t)
        steps.append(packing.pack(state).vectors())
    return PackedState(*(torch.stack(vectors, dim=1) for vectors in zip(*steps, strict=True)))


# The control flow depends on data, which torch.compile cannot trace.
@torch.compiler.disable
def _scan_pieces(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    stored: PackedState,
    states: States,
) -> ScanResult:
    """Scan rows cut at every start; pieces of similar length run as one batch."""
    # Padding hides the state after a shorter piece's last step, so it is one of all states.
    every: States = "none" if states == "none" else "all"
    begins = start.clone()
    begins[:, 0] = True
    at = begins.flatten().nonzero().squeeze(-1)
    length = at.diff(append=at.new_tensor([begins.numel()]))
    x_flat, start_flat = x.flatten(0, 1), start.flatten()
    flat = PackedState(*(vector.flatten(0, 1) for vector in stored.vectors()))
    places, results = [], []
    for group in _similar(length):
        steps = torch.arange(int(length[group].max()), device=x.device)
        # Shorter pieces of a group are padded with the steps that follow them.
        place = (at[group, None] + steps).clamp_(max=begins.numel() - 1)
        own = steps < length[group, None]
        first, begin = flat.at(at[group]), start_flat[place]
        begin[:, 0] = ~first.valid()
        y, after = _scan_whole(core, packing, x_flat[place], begin, first, every)
        results.append([each[own] for each in (y, *(after.vectors() if after else ()))])
        places.append(place[own])
    order = torch.cat(places).argsort()
    y, *vectors = (
        torch.cat(pieces)[order].unflatten(0, start.shape) for pieces in zip(*results, strict=True)
    )
    if not vectors:
        return ScanResult(y, None)
    after = PackedState(*vectors)
    return ScanResult(y, after.at((slice(None), slice(-1, None))) if states == "last" else after)


def _similar(length: Int[Tensor, "N"]) -> list[Int[Tensor, "M"]]:
    """Indices of pieces, grouped so that the longest of a group is less than twice the shortest."""
    halvings = (length.max() / length).log2().floor()
    return [(halvings == k).nonzero().squeeze(-1) for k in halvings.unique()]


def burnt_in_last(
    after: PackedState, before: PackedState, done: Bool[Tensor, "B T"] | None
) -> PackedState:
    """Next states [B, T, ...]: the last ones of `after`, all others of `before`.

    `BurnInTransform` gives the last one to the step that follows. If an episode ends there it is
    zeros, which stand for the initial state: else the next episode would start with its memory.
    """
    last = after.at((slice(None), slice(-1, None))).as_burnt_in().vectors()
    if done is not None:
        last = [vector.masked_fill(done[:, -1, None, None], 0) for vector in last]
    pairs = zip(before.vectors(), last, strict=True)
    return PackedState(*(torch.cat([old[:, :-1], new.to(old.dtype)], 1) for old, new in pairs))
