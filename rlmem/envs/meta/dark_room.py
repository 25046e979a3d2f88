"""Dark Room: find an invisible goal, and return to it in later episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.splits import Splits, hold_out
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.envs.meta.task_env import meta
from rlmem.errors import positive

MOVES = ("stay", "←", "→", "↑", "↓")


class Goal(NamedTuple):
    """The hidden goal."""

    goal: Int[Tensor, "N 2"]


class Walk(NamedTuple):
    """The agent's position, and the number of steps taken."""

    position: Int[Tensor, "N 2"]
    t: Int[Tensor, "N"]


@meta("meta-dark-room", episodes=10)
class DarkRoom(SolvableTasks[Goal, Walk]):
    """Dark Room of Laskin et al. 2022, "In-context reinforcement learning with algorithm
    distillation", arXiv 2210.14215: a room of 9x9 cells. Every step that ends at the goal earns 1.

    The observation is the agent's own cell. An episode has `length` steps and begins in the middle.
    Actions are to stay and to move left, right, up and down; walls block. Held out is a fraction
    of the cells, chosen by `split_seed`.
    """

    def __init__(
        self,
        size: int = 9,
        length: int = 20,
        heldout_share: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        self.size = positive("size", size)
        self.length = self.shortest_episode = positive("length", length)
        train, heldout = hold_out(cells(size), heldout_share, split_seed)
        super().__init__(
            Splits({"goal": train}, {"goal": heldout}),
            MultiDiscrete([size, size]),
            Discrete(len(MOVES)),
            **options,
        )

    def draw_task(self, draws: RandomDraws) -> Goal:
        """Goals of the split."""
        return Goal(self.drawn("goal", draws))

    def initial_state(self, task: Goal, draws: RandomDraws) -> Walk:
        """The middle of the room."""
        return Walk(torch.full_like(task.goal, self.size // 2), torch.zeros_like(task.goal[:, 0]))

    def transition(
        self, task: Goal, state: Walk, action: Tensors, random_steps: RandomSteps
    ) -> tuple[Walk, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Move; the goal earns 1."""
        position, t = move(state.position, action["action"], self.size), state.t + 1
        reward = (position == task.goal).all(1).float()
        return Walk(position, t), reward, t == self.length, never(t)

    def observe(self, task: Goal, state: Walk) -> Tensors:
        """The agent's own cell."""
        return {"obs": state.position.clone()}

    def best_action(self, plan: Any, task: Goal, state: Walk) -> Tensors:
        """The shortest path to the goal; at the goal, stay."""
        return {"action": towards(state.position, task.goal)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The cell."""
        return "({}, {})".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return MOVES[int(action["action"][row])]

    def reveal(self, task: Goal, state: Walk, row: int) -> str:
        """The goal."""
        return "goal ({}, {})".format(*task.goal[row].tolist())


def cells(size: int) -> list[tuple[int, int]]:
    """All (x, y) of a square room."""
    return [(x, y) for x in range(size) for y in range(size)]


def move(position: Int[Tensor, "N 2"], action: Int[Tensor, "N"], size: int) -> Int[Tensor, "N 2"]:
    """The cell after a move; y grows downward."""
    x = (action == 2).long() - (action == 1).long()
    y = (action == 4).long() - (action == 3).long()
    return (position + torch.stack((x, y), 1)).clamp(0, size - 1)


def towards(position: Int[Tensor, "N 2"], target: Int[Tensor, "N 2"]) -> Int[Tensor, "N"]:
    """A move on a shortest path to `target`, first along x."""
    x, y = (target - position).sign().unbind(1)
    across = torch.where(x == 0, 0, torch.where(x > 0, 2, 1))
    along = torch.where(y == 0, 0, torch.where(y > 0, 4, 3))
    return torch.where(across > 0, across, along)
