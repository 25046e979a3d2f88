"""Meta-FrozenLake: cross a frozen lake with other hidden holes in each trial."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps, below
from rlmem.envs.meta.planning import finite_horizon
from rlmem.envs.meta.splits import Splits, Values
from rlmem.envs.meta.task_distribution import SolvableTasks
from rlmem.envs.meta.task_env import meta
from rlmem.errors import UsageError, at_least, positive

MOVES = ("←", "↓", "→", "↑")
# The number of rounds of drawing as many candidates as maps are needed, before giving up.
ROUNDS = 200
# The planner's cost of a step: too small to change the chance of crossing, but makes paths short.
STEP = 1e-6


class Lake(NamedTuple):
    """The cells, row by row: 1 for a hole, else 0."""

    holes: Int[Tensor, "N C"]


class Crossing(NamedTuple):
    """The agent's cell, and the number of steps taken."""

    cell: Int[Tensor, "N"]
    t: Int[Tensor, "N"]


@meta("meta-frozen-lake", episodes=10)
class FrozenLake(SolvableTasks[Lake, Crossing]):
    """Gymnasium's FrozenLake on random maps; the observation is the agent's own cell only.

    The agent walks from the upper left to the lower right cell, which earns 1 and ends the episode.
    A hole ends it without reward, and `length` steps truncate it. With `slippery` a move goes in
    its direction or to either side of it, with equal chances. Each cell except start and goal is
    frozen with probability `frozen`. `split_seed` determines a stream of random maps. Of its
    different maps that can be crossed, the first `maps` are for training, and the next
    `heldout_maps` are held out.
    """

    spares = 2

    def __init__(
        self,
        size: int = 4,
        length: int = 30,
        slippery: bool = False,
        frozen: float = 0.7,
        maps: int = 1000,
        heldout_maps: int = 200,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        self.size, self.length = at_least("size", size, 2), positive("length", length)
        self.slippery = slippery
        counts = positive("maps", maps), positive("heldout_maps", heldout_maps)
        train, heldout = _lakes(size, frozen, *counts, split_seed)
        splits = Splits({"holes": train}, {"holes": heldout})
        super().__init__(splits, Discrete(size * size), Discrete(4), **options)
        self._next_cell = neighbours(size).to(self.device)

    def draw_task(self, draws: RandomDraws) -> Lake:
        """Maps of the split."""
        return Lake(self.drawn("holes", draws))

    def initial_state(self, task: Lake, draws: RandomDraws) -> Crossing:
        """The upper left cell."""
        cell = torch.zeros_like(task.holes[:, 0])
        return Crossing(cell, cell.clone())

    def transition(
        self, task: Lake, state: Crossing, action: Tensors, random_steps: RandomSteps
    ) -> tuple[Crossing, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Move, or slip."""
        move = action["action"].long()
        if self.slippery:
            move = (move + below(random_steps.bits()[0], 3) - 1) % 4
        cell, t = self._next_cell[state.cell, move], state.t + 1
        crossed = cell == self.size * self.size - 1
        over = crossed | (task.holes.gather(1, cell[:, None])[:, 0] == 1)
        return Crossing(cell, t), crossed.float(), over, ~over & (t == self.length)

    def observe(self, task: Lake, state: Crossing) -> Tensors:
        """The agent's cell."""
        return {"obs": state.cell.clone()}

    def plan(self, task: Lake) -> Int[Tensor, "N length S"]:
        """For each step and cell, the move with the best chance of crossing in time."""
        count = self.size * self.size
        move = torch.zeros(count, 4, count, dtype=torch.float64, device=self.device)
        for slip in (-1, 0, 1) if self.slippery else (0,):
            way = torch.nn.functional.one_hot(self._next_cell.roll(-slip, 1), count)
            move += way / (3 if self.slippery else 1)
        crossed = move[..., -1] - STEP
        alive = 1 - task.holes.double()
        alive[:, -1] = 0
        return finite_horizon(
            move * alive[:, None, None], crossed.expand(len(alive), -1, -1), self.length
        )[0]

    def best_action(self, plan: Any, task: Lake, state: Crossing) -> Tensors:
        """The planned move."""
        return {"action": plan[torch.arange(len(plan), device=plan.device), state.t, state.cell]}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The cell: row and column."""
        return "({}, {})".format(*divmod(int(obs["obs"][row]), self.size))

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return MOVES[int(action["action"][row])]

    def reveal(self, task: Lake, state: Crossing, row: int) -> str:
        """The map with the agent."""
        tiles = ["·O"[hole] for hole in task.holes[row].tolist()]
        tiles[-1] = "G"
        tiles[int(state.cell[row])] = "@"
        lines = (tiles[i : i + self.size] for i in range(0, len(tiles), self.size))
        return "\n".join(map("".join, lines))


def neighbours(size: int) -> Int[Tensor, "C 4"]:
    """For each cell the one to the left, below, to the right and above; itself at the edge."""
    row = torch.arange(size)[:, None].expand(size, size).reshape(-1)
    column = torch.arange(size).repeat(size)
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))
    ways = [(row + y).clamp(0, size - 1) * size + (column + x).clamp(0, size - 1) for y, x in moves]
    return torch.stack(ways, 1)


def random_maps(size: int, frozen: float, count: int, seed: int) -> Int[Tensor, "count C"]:
    """The first `count` different maps that can be crossed; 1 is a hole.

    Raises `UsageError` if `ROUNDS` rounds of candidates do not contain enough of them.
    """
    numbers = counter_rng.keys([seed]).expand(count)
    found: dict[bytes, list[int]] = {}
    for i in range(ROUNDS):
        draws = RandomDraws(numbers, torch.arange(count) + i * count)
        holes = (draws.uniform(size * size) >= frozen).T.to(torch.uint8)
        holes[:, [0, -1]] = 0
        for row in holes[crossable(holes, size)].numpy():
            found.setdefault(row.tobytes(), row.tolist())
        if len(found) >= count:
            return torch.tensor([*found.values()][:count])
    raise UsageError(
        f"found {len(found)} different maps of size {size}, frozen {frozen}, not {count}; "
        "maps and heldout_maps must add up to fewer"
    )


def crossable(holes: Tensor, size: int) -> Bool[Tensor, "M"]:
    """Which maps [M, C] have a path from start to goal."""
    free = holes == 0
    reached = torch.zeros_like(free)
    reached[:, 0] = True
    ways = neighbours(size)
    # A shortest path visits no cell twice.
    for _ in range(size * size):
        reached |= reached[:, ways].any(2) & free
    return reached[:, -1]


# Cached, since environments are often made repeatedly, and the maps take most of the time.
@lru_cache(maxsize=8)
def _lakes(size: int, frozen: float, count: int, heldout: int, seed: int) -> tuple[Values, Values]:
    """The maps of training, and the held-out ones."""
    maps = [tuple(row) for row in random_maps(size, frozen, count + heldout, seed).tolist()]
    return Values(tuple(maps[:count])), Values(tuple(maps[count:]))
