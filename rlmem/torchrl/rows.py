"""Rows of stored data through a core, each episode or slice from the state that was stored with it.

torchrl loads the stored state at a row's first step and at every `is_init`, which marks the starts
of episodes and of slices alike; `Stored.seen` tells them apart. A core's `scan` takes one state for
a row, the first. Where others must be loaded the rows are cut there, and so is a flat batch of
slices, which would otherwise run as one row, step by step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.cores.base import LinearCore, MemoryCore
from rlmem.torchrl.state import Packing, Stored


class Result(NamedTuple):
    """Outputs, and what is to be stored after each step, without gradients, if it was asked for."""

    y: Float[Tensor, "B T O"]
    after: Stored | None


def run(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    stored: Stored,
    *,
    cut: bool,
    states: bool,
) -> Result:
    """All steps of the rows, with what was `stored` before each of them [B, T, ...].

    They are cut at every start if `cut` says so, and else where they must be; those of a
    `LinearCore` never. With `states` also what is to be stored after each step: at hand in a
    `LinearCore`, and else the fold of `step`.
    """
    first = stored.at((slice(None), 0))
    loads = start & stored.seen()
    loads[:, 0] = False
    # Where no state was stored the core starts anew, and only there, whatever `start` says.
    start = torch.cat([~first.seen()[:, None], start[:, 1:]], dim=1)
    if isinstance(core, LinearCore):
        # One term more of the input; what is compiled has it in any case.
        some = torch.compiler.is_compiling() or bool(loads.any())
        given = (loads, packing.unpack(stored)) if some else None
        h = core.states(x, packing.unpack(first), start, given)
        return Result(core.decode(h, x), packing.pack(h.detach(), dims=2) if states else None)
    if x.shape[1] > 1 and (cut or bool(loads.any())):
        return _run_pieces(core, packing, x, start, stored, states)
    return _run_whole(core, packing, x, start, first, states)


def _run_whole(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    first: Stored,
    states: bool,
) -> Result:
    """Rows in which no state is loaded but the first."""
    state = packing.unpack(first)
    y, _ = core.scan(x, state, start)
    return Result(y, _fold(core, packing, x, state, start) if states else None)


@torch.no_grad()
def _fold(core: MemoryCore[Any], packing: Packing, x: Tensor, state: Any, start: Tensor) -> Stored:
    """What is to be stored after each step, step by step."""
    vectors = []
    for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
        _, state = core.step(x_t, state, start_t)
        vectors.append(packing.pack(state).parts())
    return Stored(*(torch.stack(parts, dim=1) for parts in zip(*vectors, strict=True)))


# What is done depends on the data: nothing to be traced.
@torch.compiler.disable
def _run_pieces(
    core: MemoryCore[Any],
    packing: Packing,
    x: Float[Tensor, "B T I"],
    start: Bool[Tensor, "B T"],
    stored: Stored,
    states: bool,
) -> Result:
    """Cut at every start; pieces of similar length run side by side."""
    begins = start.clone()
    begins[:, 0] = True
    at = begins.flatten().nonzero().squeeze(-1)
    length = at.diff(append=at.new_tensor([begins.numel()]))
    x_flat, start_flat = x.flatten(0, 1), start.flatten()
    flat = Stored(*(part.flatten(0, 1) for part in stored.parts()))
    places, results = [], []
    for group in _similar(length):
        steps = torch.arange(int(length[group].max()), device=x.device)
        # A piece that is shorter than others of its group runs on, into what comes after it.
        place = (at[group, None] + steps).clamp_(max=begins.numel() - 1)
        own = steps < length[group, None]
        first, begin = flat.at(at[group]), start_flat[place]
        begin[:, 0] = ~first.seen()
        y, after = _run_whole(core, packing, x_flat[place], begin, first, states)
        results.append([part[own] for part in (y, *(after.parts() if after else ()))])
        places.append(place[own])
    order = torch.cat(places).argsort()
    y, *vectors = (
        torch.cat(parts)[order].unflatten(0, start.shape) for parts in zip(*results, strict=True)
    )
    return Result(y, Stored(*vectors) if vectors else None)


def _similar(length: Int[Tensor, "N"]) -> list[Int[Tensor, "M"]]:
    """Pieces in groups, in each of which the longest is less than twice the shortest."""
    halvings = (length.max() / length).log2().floor()
    return [(halvings == k).nonzero().squeeze(-1) for k in halvings.unique()]
