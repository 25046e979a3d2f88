"""Dynamic programming on a grid of states, for tasks with small states and one control."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Float64, Int32
from torch import Tensor

from rlmem.envs.control.base import Control

# The horizon of dynamic programming, in steps.
STEPS = 200


class Axis(NamedTuple):
    """The grid nodes along one number of the state; on a circle both ends are the same point."""

    low: float
    high: float
    size: int
    circle: bool = False

    @property
    def step(self) -> float:
        """The distance between neighbouring nodes."""
        return (self.high - self.low) / (self.size - (not self.circle))


class Grid(NamedTuple):
    """A grid of states, the candidate controls, and the depth of the search.

    From a state, the law searches all sequences of `depth` controls, each held for `hold` steps,
    followed by the value of the final state. Values are computed at the nodes by backward induction
    (Bellman 1957). Between nodes they are averages of the surrounding ones, which keeps the
    recursion stable (Gordon 1995, "Stable function approximation in dynamic programming").
    """

    axes: tuple[Axis, ...]
    choices: tuple[float, ...]
    hold: int
    depth: int = 1

    def steer(self, task: Control, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "1 N"]:
        """The first control of the best sequence."""
        choices = state.new_tensor(self.choices)
        ends, loss = state, torch.zeros_like(state[0])
        over = loss.bool()
        for _ in range(self.depth):
            ends, loss, over = (repeat(leaf, len(choices)) for leaf in (ends, loss, over))
            control = choices.repeat_interleave(ends.shape[1] // len(choices))[None]
            ends, loss, over = hold(task, control, self.hold, ends, loss, over)
        left = mean(losses(self, task, state.device), *self.around(ends))
        loss += torch.where(over, gone(task, STEPS), left)
        # Each repetition adds an outer dimension, so the first choice is the innermost one.
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
        """The nodes around states and their weights; states outside the grid count as its rim."""
        index = torch.zeros_like(state[:1], dtype=torch.int32)
        weight = torch.ones_like(state[:1], dtype=torch.float32)
        for axis, number in zip(self.axes, state, strict=True):
            place = (number - axis.low) / axis.step
            place = place % axis.size if axis.circle else place.clamp(0, axis.size - 1)
            below = place.floor().clamp_(max=axis.size - (1 if axis.circle else 2))
            upper = (place - below).float()
            pair = torch.stack((below, (below + 1) % axis.size)).to(torch.int32)
            index = (index * axis.size + pair[:, None]).flatten(0, 1)
            weight = (weight * torch.stack((1 - upper, upper))[:, None]).flatten(0, 1)
        return index, weight


@cache
def losses(grid: Grid, task: Control, device: torch.device) -> Float32[Tensor, "K"]:
    """The loss of the best episode from each node on, compared with steps that are all worth 1."""
    nodes = grid.nodes(device)
    none = torch.zeros_like(nodes[0])
    outcomes = []
    for choice in grid.choices:
        control = torch.full_like(nodes[:1], choice)
        ends, loss, over = hold(task, control, grid.hold, nodes, none, none.bool())
        outcomes.append((grid.around(ends), loss.float(), over))
    lost = none.float()
    for steps in range(0, STEPS, grid.hold):
        rest = gone(task, steps)
        each = [loss + torch.where(over, rest, mean(lost, *ends)) for ends, loss, over in outcomes]
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
    """Hold a control for `steps` steps: final states, accumulated losses, ended episodes."""
    for _ in range(steps):
        state, worth, ended = task.transition(state.clone(), control)
        # The step that solves a task loses nothing; the step of a failure counts with its worth.
        loss = loss + torch.where(over | ended if task.solved else over, gone(task, 1), 1 - worth)
        over = over | ended
    return state, loss, over


def gone(task: Control, steps: int) -> float:
    """The loss of `steps` steps after the end of an episode."""
    return 0.0 if task.solved else float(steps)


def mean(
    value: Float32[Tensor, "K"], index: Int32[Tensor, "P N"], weight: Float32[Tensor, "P N"]
) -> Float32[Tensor, "N"]:
    """Weighted means of node values."""
    sum = torch.zeros_like(weight[0])
    for node, factor in zip(index, weight, strict=True):
        sum.addcmul_(value.index_select(0, node), factor)
    return sum


def repeat(leaf: Tensor, count: int) -> Tensor:
    """`count` copies concatenated along the last axis."""
    return torch.cat([leaf] * count, -1)
