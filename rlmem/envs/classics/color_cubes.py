"""Color-Cubes: cubes on a grid teleport, and the agent must remember the newest cell of each."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, below, uniform
from rlmem.envs.privileged import register_with_state
from rlmem.envs.tensor_env import StateEnv
from rlmem.errors import UsageError, at_least, fraction, positive


class Cubes(NamedTuple):
    """The state of an episode. Cells are numbered by rows.

    `key` is the key of the episode's random numbers, `found` the number of taken cubes. `shown`
    marks the visible cubes; `left` and `reached` are the cells of the last teleport, -1 without
    one.
    """

    key: Int[Tensor, "N"]
    agent: Int[Tensor, "N"]
    cells: Int[Tensor, "N K"]
    target: Int[Tensor, "N"]
    found: Int[Tensor, "N"]
    t: Int[Tensor, "N"]
    shown: Bool[Tensor, "N K"]
    left: Int[Tensor, "N"]
    reached: Int[Tensor, "N"]


@register_with_state("color-cubes")
class ColorCubes(StateEnv[Cubes]):
    """The Color-Cubes of Shchendrigin et al. 2026, "Memory retention is not enough to master memory
    tasks in reinforcement learning", arXiv 2601.15086: fetch the cube of the asked colour while
    other cubes teleport. Memory must be rewritten selectively: one cell changes, the others stay.

    A grid of `size` x `size` cells holds `cubes` cubes of different colours. An episode has
    `targets` phases, each with an asked colour. The agent moves by one cell, and takes the cube of
    its cell: the asked one earns 1 / targets, and any other take earns `penalty`. A taken cube
    teleports, and the next phase asks for another colour. In each other step, with probability
    `teleport`, a random cube teleports, but never the asked one. Teleports go to random cells
    without cubes, and depend on the episode, the step and the cells alone.

    Observations: `obs.position` is the agent's cell as (x, y) in [0, 1], `obs.target` the asked
    colour, and `obs.cubes` has three numbers for each colour: 1, x and y if the cube is visible,
    else 0. All cubes are visible in the first observation, and later a cube that has just
    teleported. With `show_all` all are visible at the start of every phase. With `hide_colors` a
    teleport is visible without the colour, in `obs.moved`: 1 and the cells before and after it,
    (x, y) each. Its colour must then be inferred from the remembered cells.

    The paper gives the cubes, phases, teleports and rewards. The action that takes a cube, the
    form of the observations and the limit are chosen here. In the paper every phase begins with
    all cubes in view; that is `show_all`, and by default memory must last for the whole episode.

    An episode terminates with the last phase, and is truncated after `max_steps` steps; null is
    targets * (2 size - 1), which always suffice. Return without penalty: 1 at the optimum, about
    0.05 for random play with the default options.
    """

    MOVES: ClassVar = ("→", "↑", "←", "↓", "take")
    COLORS: ClassVar = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
    spares = 2

    def __init__(
        self,
        num_envs: int,
        size: int = 5,
        cubes: int = 3,
        targets: int = 10,
        teleport: float = 0.1,
        max_steps: int | None = None,
        show_all: bool = False,
        hide_colors: bool = False,
        penalty: float = 0.0,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size, self.cubes = at_least("size", size, 2), positive("cubes", cubes)
        self.targets = positive("targets", targets)
        self.teleport = fraction("teleport", teleport)
        if cubes >= size**2:
            raise UsageError(f"cubes={cubes} leave no free cell of size * size = {size**2}")
        if penalty > 0:
            raise UsageError(f"penalty must be at most 0, not {penalty}")
        enough = targets * (2 * size - 1)
        self.length = positive("max_steps", enough if max_steps is None else max_steps)
        self.shortest = min(self.length, targets)
        self.show_all, self.hide_colors, self.penalty = show_all, hide_colors, penalty
        spaces: dict[str, Space] = {
            "position": Box(0.0, 1.0, (2,)),
            "target": Discrete(cubes),
            "cubes": Box(0.0, 1.0, (3 * cubes,)),
        }
        if hide_colors:
            spaces["moved"] = Box(0.0, 1.0, (5,))
        super().__init__(
            num_envs=num_envs,
            observation_space=Dict(spaces),
            action_space=Discrete(5),
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Cubes:
        """Random cells and targets."""
        cells = draws.shuffle(self.size**2, self.cubes).long().T.contiguous()
        agent, target = draws.below(self.size**2, 1)[0], draws.below(self.cubes, 1)[0]
        none = torch.zeros_like(agent)
        shown = torch.ones_like(cells, dtype=torch.bool)
        key = draws.bits(1)[0]
        return Cubes(key, agent, cells, target, none, none.clone(), shown, none - 1, none - 1)

    def transition(
        self, state: Cubes, action: Tensors
    ) -> tuple[Cubes, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A move or a take, and perhaps a teleport."""
        move, words = action["action"], RandomDraws(state.key, state.t).bits(4)
        wanted = state.cells.gather(1, state.target[:, None])[:, 0]
        takes = move == 4
        taken = takes & (state.agent == wanted)
        found, t = state.found + taken, state.t + 1
        moves = taken | (uniform(words[0]) < self.teleport) & (self.cubes > 1)
        mover = torch.where(taken, state.target, self._other(state.target, words[1]))[:, None]
        place = self._free_cell(state.cells, words[2])
        before = state.cells.gather(1, mover)[:, 0]
        after = torch.where(moves, place, before)
        shown = torch.zeros_like(state.shown).scatter(1, mover, moves[:, None])
        if self.hide_colors:
            shown = torch.zeros_like(shown)
        if self.show_all:
            shown |= taken[:, None]
        next_state = Cubes(
            state.key,
            self._walk(state.agent, move),
            state.cells.scatter(1, mover, after[:, None]),
            torch.where(taken, self._other(state.target, words[3]), state.target),
            found,
            t,
            shown,
            torch.where(moves, before, -1),
            torch.where(moves, place, -1),
        )
        reward = torch.where(taken, 1 / self.targets, takes * self.penalty)
        over = found == self.targets
        return next_state, reward.to(torch.float32), over, (t >= self.length) & ~over

    def _walk(self, agent: Int[Tensor, "N"], move: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """The agent's next cell."""
        right, up = (move == 0).long() - (move == 2).long(), (move == 1).long() - (move == 3).long()
        x, y = agent % self.size + right, agent // self.size + up
        return x.clamp(0, self.size - 1) + y.clamp(0, self.size - 1) * self.size

    def _other(self, target: Int[Tensor, "N"], word: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Random colours other than the target, if there are others."""
        drawn = below(word, max(self.cubes - 1, 1))
        return drawn + (drawn >= target) if self.cubes > 1 else drawn

    def _free_cell(self, cells: Int[Tensor, "N K"], word: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Random cells without cubes."""
        number = below(word, self.size**2 - self.cubes)
        # The number of free cells before each cube, in the order of the cells.
        free = cells.sort(1).values - torch.arange(self.cubes, device=cells.device)
        return number + (free <= number[:, None]).sum(1)

    def observe(self, state: Cubes) -> Tensors:
        """The agent's cell, the asked colour, and the cells that have changed."""
        visible = state.shown[..., None]
        cubes = torch.cat([visible.float(), self._place(state.cells) * visible], dim=-1)
        obs = {
            "obs.position": self._place(state.agent),
            "obs.target": state.target.clone(),
            "obs.cubes": cubes.flatten(1),
        }
        if self.hide_colors:
            moved = (state.left >= 0)[:, None]
            ways = [self._place(cell) for cell in (state.left, state.reached)]
            obs["obs.moved"] = torch.cat([torch.ones_like(ways[0][:, :1]), *ways], 1) * moved
        return obs

    def _place(self, cell: Int[Tensor, "*N"]) -> Float[Tensor, "*N 2"]:
        """The coordinates of cells, from 0 to 1."""
        return torch.stack([cell % self.size, cell // self.size], -1) / (self.size - 1)

    def hidden_space(self) -> Box:
        """The coordinates of all cubes."""
        return Box(0.0, 1.0, (2 * self.cubes,))

    def observe_hidden(self, state: Cubes) -> Tensors:
        """The present cells of all cubes."""
        return {"privileged": self._place(state.cells).flatten(1)}

    def best_action(self) -> Tensors:
        """Along x, then along y to the asked cube; then take it."""
        state = self.state
        wanted = state.cells.gather(1, state.target[:, None])[:, 0]
        right = wanted % self.size - state.agent % self.size
        up = wanted // self.size - state.agent // self.size
        vertical = torch.where(up == 0, 4, 2 - up.sign())
        return {"action": torch.where(right == 0, vertical, 1 - right.sign())}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The agent's cell, the asked colour, and the visible cubes."""
        cubes = obs["obs.cubes"][row].view(-1, 3)
        seen = [f"{self._color(i)} {self._at(cube[1:])}" for i, cube in enumerate(cubes) if cube[0]]
        if self.hide_colors and obs["obs.moved"][row, 0]:
            _, *ends = obs["obs.moved"][row]
            seen.append(" → ".join(self._at(torch.stack(end)) for end in (ends[:2], ends[2:])))
        place = self._at(obs["obs.position"][row])
        return f"{place} fetch {self._color(int(obs['obs.target'][row]))}" + "".join(
            f", {text}" for text in seen
        )

    def _at(self, place: Float[Tensor, "2"]) -> str:
        x, y = (place * (self.size - 1)).round().long().tolist()
        return f"({x},{y})"

    def _color(self, cube: int) -> str:
        return self.COLORS[cube] if cube < len(self.COLORS) else f"color {cube}"

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow, or `take`."""
        return self.MOVES[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The cells of all cubes."""
        places = self._place(self.state.cells[row])
        return " ".join(f"{self._color(i)} {self._at(place)}" for i, place in enumerate(places))
