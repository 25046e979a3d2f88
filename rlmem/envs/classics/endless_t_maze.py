"""Endless T-maze: corridor after corridor, each with a cue that replaces the one before."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.privileged import register_with_state
from rlmem.envs.tensor_env import StateEnv
from rlmem.errors import UsageError, positive

# Steps of an episode of endless corridors, unless `max_steps` is given.
ENDLESS_STEPS = 1000


class Corridor(NamedTuple):
    """The present corridor of an episode: the number of corridors before it, its length and goal
    (-1 or 1), the position, the visible cue (or 0), and the number of steps taken.

    `key` is the key of the episode's random numbers.
    """

    key: Int[Tensor, "N"]
    number: Int[Tensor, "N"]
    length: Int[Tensor, "N"]
    goal: Int[Tensor, "N"]
    x: Int[Tensor, "N"]
    cue: Int[Tensor, "N"]
    t: Int[Tensor, "N"]


@register_with_state("tmaze-endless")
class TMazeEndless(StateEnv[Corridor]):
    """The Endless T-Maze of Shchendrigin et al. 2026, "Memory retention is not enough to master
    memory tasks in reinforcement learning", arXiv 2601.15086: the cue at the start of each corridor
    names the turn at its end, and every turn leads to the next corridor. An agent must replace its
    memory of the cue again and again.

    A corridor has cells x = 0..length, with the junction at x = length. The agent walks right and
    left, and turns up or down at the junction; other moves do nothing. The cue is visible only in
    the first observation of its corridor. Lengths are `corridor_length`, or uniform from
    `min_length` to `corridor_length` (the paper's two regimes). Cues and lengths depend on the
    episode and the number of the corridor alone.

    Observations: (0, cue or 0) in the corridor, (1, 0) at the junction. Without
    `ambiguous_position` (as in the paper): also x / corridor_length.

    A right turn earns `goal_reward` and a wrong one -`goal_reward`; any other step earns `penalty`
    (paper: 1, and -0.01). An episode terminates after `corridors` turns, and is truncated after
    `max_steps` steps (null: twice the steps of the longest walk). With `corridors` null the maze is
    endless: every episode is truncated (null: after 1,000 steps). `goal_reward` null is 1 by the
    number of turns: `corridors`, or those of the longest corridors that fit into `max_steps`.

    Return without a penalty: 1 at the optimum (more for endless corridors of different lengths); 0
    for random play and for every policy without memory.
    """

    MOVES: ClassVar = ("→", "↑", "←", "↓")
    spares = 2

    def __init__(
        self,
        num_envs: int,
        corridor_length: int = 10,
        min_length: int | None = None,
        corridors: int | None = 10,
        max_steps: int | None = None,
        goal_reward: float | None = None,
        penalty: float = 0.0,
        ambiguous_position: bool = True,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.longest = positive("corridor_length", corridor_length)
        self.least = positive("min_length", corridor_length if min_length is None else min_length)
        if self.least > self.longest:
            raise UsageError(f"min_length={min_length} is above corridor_length={corridor_length}")
        self.corridors = None if corridors is None else positive("corridors", corridors)
        walk = self.longest + 1
        if max_steps is None:
            max_steps = max(ENDLESS_STEPS, walk) if corridors is None else 2 * corridors * walk
        self.length = positive("max_steps", max_steps)
        turns = self.length // walk if corridors is None else corridors
        if turns == 0:
            raise UsageError(f"max_steps={max_steps} are too few for a corridor of {walk} steps")
        self.goal_reward = 1 / turns if goal_reward is None else goal_reward
        self.penalty, self.ambiguous = penalty, ambiguous_position
        if penalty > 0:
            raise UsageError(f"penalty must be at most 0, not {penalty}")
        quickest = self.length if corridors is None else corridors * (self.least + 1)
        self.shortest = min(self.length, quickest)
        low, high = ([0, -1], [1, 1]) if ambiguous_position else ([0, -1, 0], [1, 1, 1])
        super().__init__(
            num_envs=num_envs,
            observation_space=Box(np.array(low, np.float32), np.array(high, np.float32)),
            action_space=Discrete(4),
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Corridor:
        """The first corridors."""
        key = draws.bits(1)[0]
        none = torch.zeros_like(key)
        length, goal = self._corridor(key, none)
        return Corridor(key, none, length, goal, none.clone(), goal.clone(), none.clone())

    def _corridor(
        self, key: Int[Tensor, "N"], number: Int[Tensor, "N"]
    ) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
        """Lengths and goals of these corridors of episodes."""
        draws = RandomDraws(key, number)
        goal = 2 * draws.below(2, 1)[0] - 1
        return self.least + draws.below(self.longest - self.least + 1, 1)[0], goal

    def transition(
        self, state: Corridor, action: Tensors
    ) -> tuple[Corridor, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A move, or a turn into the next corridor."""
        move = action["action"]
        right, up = (move == 0).long() - (move == 2).long(), (move == 1).long() - (move == 3).long()
        turns = (state.x == state.length) & (up != 0)
        won = torch.where(up == state.goal, self.goal_reward, -self.goal_reward)
        number = state.number + turns
        length, goal = state.length, state.goal
        if not self._may_ask or turns.any():
            length, goal = self._corridor(state.key, number)
        x = torch.where(turns, 0, (state.x + right).clamp(min=0).minimum(state.length))
        after = Corridor(state.key, number, length, goal, x, goal * turns, state.t + 1)
        reward = torch.where(turns, won, self.penalty)
        over = torch.zeros_like(turns) if self.corridors is None else number == self.corridors
        return after, reward.to(torch.float32), over, (after.t >= self.length) & ~over

    def observe(self, state: Corridor) -> Tensors:
        """Whether this is the junction, the cue, and perhaps the position."""
        seen = [state.x == state.length, state.cue]
        if not self.ambiguous:
            seen.append(state.x / self.longest)
        return {"obs": torch.stack([leaf.to(torch.float32) for leaf in seen], dim=1)}

    def hidden_space(self) -> Box:
        """The goal, and the share of the way to the junction."""
        return Box(np.array([-1, 0], np.float32), np.ones(2, np.float32))

    def observe_hidden(self, state: Corridor) -> Tensors:
        """The goal of the present corridor, and the position in it."""
        return {"privileged": torch.stack([state.goal.float(), state.x / state.length], dim=1)}

    def best_action(self) -> Tensors:
        """Right, and at the junction the turn to the goal."""
        state = self.state
        return {"action": torch.where(state.x == state.length, 2 - state.goal, 0)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible position, and the cue."""
        junction, cue, *x = obs["obs"][row].tolist()
        place = "junction" if junction else f"cue: {_side(cue)}" if cue else "corridor"
        return place + "".join(f" x={share:.2f}" for share in x)

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return self.MOVES[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The corridor's number and goal, and the position."""
        state = self.state
        place = f"x={int(state.x[row])} of {int(state.length[row])}"
        return f"corridor {int(state.number[row]) + 1}, goal {_side(state.goal[row])}, {place}"


def _side(y: float | Tensor) -> str:
    return "up" if y > 0 else "down"
