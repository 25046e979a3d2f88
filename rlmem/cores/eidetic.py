"""The steps of greatest error among those that have left a window: an eidetic memory of M steps.

A step that leaves the window is kept if fewer than M steps that left before or with it have a
greater error; of equal errors the older one counts as greater. So a step that was dropped never
comes back, and which steps are kept depends on errors alone, not on the contents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.attention import take

CHUNK = 32  # steps of a row whose candidates are compared at once


class Kept(NamedTuple):
    """`key` and `value` [B, M, H, D] and `error` [B, M] of the kept steps.

    They are at the end, the youngest last. The slots before them are zero.
    """

    key: Tensor
    value: Tensor
    error: Tensor


def kept_count(count: Int[Tensor, "B"], window: int, most: int) -> Int[Tensor, "B"]:
    """The number of kept steps when an episode has `count` steps."""
    return (count - window).clamp(0, most)


def insert(kept: Kept, leaving: Kept, count: Int[Tensor, "B"], window: int) -> Kept:
    """The kept steps after `leaving` [B, 1, ...] has left the window.

    `count` is the number of steps before the current one; without a full window, none leaves.
    """
    most = kept.error.shape[1]
    every = [torch.cat(pair, dim=1) for pair in zip(kept, leaving, strict=True)]
    place = torch.arange(most + 1, device=count.device)
    error = every[2].detach()
    least = torch.where(error == error.amin(1, keepdim=True), place, -1).amax(1)
    full = kept_count(count, window, most) == most
    drop = torch.where(count < window, most, torch.where(full, least, 0))
    slot = place[:most]
    there = slot >= most - kept_count(count + 1, window, most)[:, None]
    return _at(every, slot + (slot >= drop[:, None]), there)


class Chosen(NamedTuple):
    """The kept steps at all places of a row, in chunks of C steps.

    Candidates of a chunk are M steps, kept at its beginning, and W + C steps from its window on.
    `carried` [B, n, M] are the positions of the first in the kept steps, the window and the row,
    end to end. `kept` and `near` [B, n, C, M+W+C] tell which candidates are kept, or in the window,
    at each step. `final` [B, M] are the positions of the steps that are kept after the row, -1 for
    none.
    """

    carried: Tensor
    kept: Tensor
    near: Tensor
    final: Tensor


@torch.no_grad()
def choose(
    kept_error: Float[Tensor, "B M"],
    error: Float[Tensor, "B N"],
    count: Int[Tensor, "B"],
    start: Bool[Tensor, "B T"],
) -> Chosen:
    """Which steps are kept at each step of a row; `error` begins with the window, N = W + T."""
    rows, most = kept_error.shape
    time, window = start.shape[1], error.shape[1] - start.shape[1]
    size = min(CHUNK, time)
    chunks = -(-time // size)
    episode = _episodes(kept_error, window, count, start, chunks * size)
    errors = torch.cat([kept_error, error], dim=1)
    errors = F.pad(errors, (0, episode.shape[1] - errors.shape[1]))
    # Step `size` stands for the first step of the next chunk, if no episode begins there.
    step = torch.arange(size + 1, device=start.device)[:, None]
    ago = window + step - torch.arange(window + size, device=start.device)
    left = torch.cat([torch.ones_like(step, dtype=torch.bool).expand(-1, most), ago > window], 1)
    inside = torch.cat([torch.zeros_like(left[:, :most]), (ago >= 0) & (ago <= window)], 1)
    local = torch.arange(most, most + window + size, device=start.device).expand(rows, -1)
    carried = torch.where(episode[:, :most] < 0, -1, local.new_tensor(range(most)))
    found = []
    for first in range(0, chunks * size, size):
        here = torch.cat([carried, local + first], dim=1)
        e = errors.gather(1, here.clamp(min=0))
        of = torch.where(here < 0, -1, episode.gather(1, here.clamp(min=0)))
        begin = most + window + first
        of_step = episode[:, begin : begin + size]
        of_step = torch.cat([of_step, of_step[:, -1:]], dim=1)
        # Steps after the row stand for the next one, too.
        of_step = torch.where(of_step < 0, episode[:, most + window + time - 1, None], of_step)
        same = of_step[..., None] == of[:, None]
        kept = best(e, same & left, most)
        near = same & inside
        found.append((carried.clamp(min=0), kept[:, :size], near[:, :size]))
        after = kept[:, min(size, time - first)]
        place = torch.arange(here.shape[1], device=here.device)
        youngest = torch.where(after, place, -1).topk(most, dim=1).values.flip(1)
        carried = torch.where(youngest < 0, -1, here.gather(1, youngest.clamp(min=0)))
    begins, kept, near = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
    return Chosen(begins, kept, near, carried)


def best(
    error: Float[Tensor, "B Q"], there: Bool[Tensor, "B C Q"], most: int
) -> Bool[Tensor, "B C Q"]:
    """The `most` candidates of greatest error among those that are there, at each step."""
    place = torch.arange(error.shape[1], device=error.device)
    one, other = error[:, :, None], error[:, None, :]
    loses = (one < other) | ((one == other) & (place[:, None] > place))
    # Small integers, which are exact in float32.
    with torch.autocast(error.device.type, enabled=False):
        greater = there.float() @ loses.float().mT
    return there & (greater < most)


def kept_after(final: Int[Tensor, "B M"], kept: Kept, steps: tuple[Tensor, Tensor, Tensor]) -> Kept:
    """The kept steps at the positions `final`; `steps` are those of window and row."""
    every = [torch.cat(pair, dim=1) for pair in zip(kept, steps, strict=True)]
    return _at(every, final.clamp(min=0), final >= 0)


def _at(every: list[Tensor], index: Int[Tensor, "B M"], there: Bool[Tensor, "B M"]) -> Kept:
    key, value = (torch.where(there[..., None, None], take(x, index), 0) for x in every[:2])
    return Kept(key, value, torch.where(there, every[2].gather(1, index), 0))


def _episodes(
    kept_error: Tensor, window: int, count: Tensor, start: Tensor, time: int
) -> Int[Tensor, "B L"]:
    """The episode of all positions, 0 for the running one; -1 for empty slots and after the row."""
    most = kept_error.shape[1]
    slot = torch.arange(most, device=start.device)
    ago = torch.arange(window, 0, -1, device=start.device)
    before = [
        slot >= most - kept_count(count, window, most)[:, None],
        ago <= count[:, None],
    ]
    known = torch.cat(before, dim=1).long() - 1
    episode = torch.cat([known, start.cumsum(1)], dim=1)
    return F.pad(episode, (0, time - start.shape[1]), value=-1)
