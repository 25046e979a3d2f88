"""Dynamic programming on a grid of states, for tasks of a few numbers and one control."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Float64, Int32
from torch import Tensor

from rlmem.envs.control.base import Control

# How many steps are planned for.
STEPS = 200


class Axis(NamedTuple):
    """Where nodes lie along one number of the state; the two ends of a circle are one place."""

    low: float
    high: float
    size: int
    circle: bool = False

    @property
    def step(self) -> float:
        """From one node to the next."""
        return (self.high - self.low) / (self.size - (not self.circle))


class Grid(NamedTuple):
    """How finely to plan: nodes, controls to choose from, and how far to look ahead of a state.

    The best plan from a state holds each of `depth` controls for `hold` steps and goes on as is
    best from where they lead. What that is worth is known at the nodes, backwards from the end of
    an episode (Bellman 1957), and between them it is the mean of those around, with which the
    recursion is stable (Gordon 1995, "Stable function approximation in dynamic programming").
    """

    axes: tuple[Axis, ...]
    choices: tuple[float, ...]
    hold: int
    depth: int = 1

    def steer(self, task: Control, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "1 N"]:
        """The first control of the best plan."""
        choices = state.new_tensor(self.choices)
        ends, loss = state, torch.zeros_like(state[0])
        over = loss.bool()
        for _ in range(self.depth):
            ends, loss, over = (repeat(part, len(choices)) for part in (ends, loss, over))
            control = choices.repeat_interleave(ends.shape[1] // len(choices))[None]
            ends, loss, over = hold(task, control, self.hold, ends, loss, over)
        left = mean(losses(self, task, state.device), *self.around(ends))
        loss += torch.where(over, gone(task, STEPS), left)
        # The last choices of a plan come first, as whatever was there was copied for each of them.
        count = len(choices)
        best = loss.view(count ** (self.depth - 1), count, state.shape[1]).amin(0).argmin(0)
        return choices[best][None]

    def nodes(self, device: torch.device) -> Float64[Tensor, "S K"]:
        """The states of the grid."""
        places = [
            torch.arange(axis.size, dtype=torch.float64, device=device) * axis.step + axis.low
            for axis in self.axes
        ]
        return torch.stack(torch.meshgrid(*places, indexing="ij")).flatten(1)

    def around(
        self, state: Float64[Tensor, "S N"]
    ) -> tuple[Int32[Tensor, "P N"], Float32[Tensor, "P N"]]:
        """The nodes around states, and the share of each; what lies outside counts as the rim."""
        index = torch.zeros_like(state[:1], dtype=torch.int32)
        share = torch.ones_like(state[:1], dtype=torch.float32)
        for axis, number in zip(self.axes, state, strict=True):
            place = (number - axis.low) / axis.step
            place = place % axis.size if axis.circle else place.clamp(0, axis.size - 1)
            below = place.floor().clamp_(max=axis.size - (1 if axis.circle else 2))
            upper = (place - below).float()
            pair = torch.stack((below, (below + 1) % axis.size)).to(torch.int32)
            index = (index * axis.size + pair[:, None]).flatten(0, 1)
            share = (share * torch.stack((1 - upper, upper))[:, None]).flatten(0, 1)
        return index, share


@cache
def losses(grid: Grid, task: Control, device: torch.device) -> Float32[Tensor, "K"]:
    """What the best episode loses from each node on, of steps that might all be worth 1."""
    nodes = grid.nodes(device)
    none = torch.zeros_like(nodes[0])
    plans = []
    for choice in grid.choices:
        control = torch.full_like(nodes[:1], choice)
        ends, loss, over = hold(task, control, grid.hold, nodes, none, none.bool())
        plans.append((grid.around(ends), loss.float(), over))
    lost = none.float()
    for steps in range(0, STEPS, grid.hold):
        rest = gone(task, steps)
        each = [loss + torch.where(over, rest, mean(lost, *ends)) for ends, loss, over in plans]
        lost = torch.stack(each).amin(0)
    return lost


def hold(
    task: Control,
    control: Float64[Tensor, "1 N"],
    steps: int,
    state: Float64[Tensor, "S N"],
    loss: Float64[Tensor, "N"],
    over: Bool[Tensor, "N"],
) -> tuple[Float64[Tensor, "S N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
    """Where a control leads, what has been lost by then, and which episodes are over."""
    for _ in range(steps):
        state, worth, ended = task.move(state.clone(), control)
        # What solves a task loses nothing itself, but the step of a failure has its worth.
        loss = loss + torch.where(over | ended if task.solved else over, gone(task, 1), 1 - worth)
        over = over | ended
    return state, loss, over


def gone(task: Control, steps: int) -> float:
    """What so many steps after the end of an episode lose."""
    return 0.0 if task.solved else float(steps)


def mean(
    value: Float32[Tensor, "K"], index: Int32[Tensor, "P N"], share: Float32[Tensor, "P N"]
) -> Float32[Tensor, "N"]:
    """The mean of nodes by their shares."""
    sum = torch.zeros_like(share[0])
    for place, part in zip(index, share, strict=True):
        sum.addcmul_(value.index_select(0, place), part)
    return sum


def repeat(part: Tensor, count: int) -> Tensor:
    """Copies beside each other along the last axis."""
    return torch.cat([part] * count, -1)
