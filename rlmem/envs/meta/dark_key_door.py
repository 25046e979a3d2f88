"""Dark Key-to-Door: find an invisible key and then an invisible door."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.dark_room import MOVES, cells, move, towards
from rlmem.envs.meta.splits import Splits, hold_out
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.envs.meta.task_env import meta
from rlmem.errors import positive


class KeyDoor(NamedTuple):
    """The cells of the key and the door."""

    key: Int[Tensor, "N 2"]
    door: Int[Tensor, "N 2"]


class Search(NamedTuple):
    """The agent's position, whether it has the key, and the number of steps taken."""

    position: Int[Tensor, "N 2"]
    has_key: Bool[Tensor, "N"]
    t: Int[Tensor, "N"]


@meta("meta-dark-key-door", episodes=10)
class DarkKeyDoor(SolvableTasks[KeyDoor, Search]):
    """Dark Key-to-Door of Laskin et al. 2022, "In-context reinforcement learning with algorithm
    distillation", arXiv 2210.14215: a room (there of 9x9 cells). The first step onto the key earns
    1. With the key, the first step onto the door earns another 1 and ends the episode.

    The observation is the agent's own cell, not whether it has the key. An episode has at most
    `length` steps and begins in a random cell; the actions are those of Dark Room. Held out is a
    fraction of the cells for the key, and of the cells for the door: no held-out task has its key
    or its door in a cell of training.
    """

    spares = 2

    def __init__(
        self,
        size: int = 5,
        length: int = 20,
        heldout_share: float = 0.2,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        self.size = positive("size", size)
        self.length = positive("length", length)
        key, heldout_key = hold_out(cells(size), heldout_share, 2 * split_seed)
        door, heldout_door = hold_out(cells(size), heldout_share, 2 * split_seed + 1)
        super().__init__(
            Splits({"key": key, "door": door}, {"key": heldout_key, "door": heldout_door}),
            MultiDiscrete([size, size]),
            Discrete(len(MOVES)),
            **options,
        )

    def draw_task(self, draws: RandomDraws) -> KeyDoor:
        """Keys and doors of the split."""
        return KeyDoor(self.drawn("key", draws), self.drawn("door", draws))

    def initial_state(self, task: KeyDoor, draws: RandomDraws) -> Search:
        """A random cell, without the key."""
        position = draws.below(self.size, 2).T.contiguous()
        t = torch.zeros_like(position[:, 0])
        return Search(position, t.bool(), t)

    def transition(
        self, task: KeyDoor, state: Search, action: Tensors, random_steps: RandomSteps
    ) -> tuple[Search, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Move; finding the key earns 1, and reaching the door with the key another 1."""
        position, t = move(state.position, action["action"], self.size), state.t + 1
        found = (position == task.key).all(1) & ~state.has_key
        opened = (position == task.door).all(1) & state.has_key
        reward = found.float() + opened.float()
        after = Search(position, state.has_key | found, t)
        return after, reward, opened | (t == self.length), never(t)

    def observe(self, task: KeyDoor, state: Search) -> Tensors:
        """The agent's own cell."""
        return {"obs": state.position.clone()}

    def best_action(self, plan: Any, task: KeyDoor, state: Search) -> Tensors:
        """The shortest path to the key, then to the door."""
        target = torch.where(state.has_key[:, None], task.door, task.key)
        return {"action": towards(state.position, target)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The cell."""
        return "({}, {})".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return MOVES[int(action["action"][row])]

    def reveal(self, task: KeyDoor, state: Search, row: int) -> str:
        """The cells of key and door."""
        key, door = (leaf[row].tolist() for leaf in task)
        held = "has" if state.has_key[row] else "needs"
        return f"{held} the key of ({key[0]}, {key[1]}), door ({door[0]}, {door[1]})"
