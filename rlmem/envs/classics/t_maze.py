"""T-mazes: a cue at one end of a corridor tells which way to turn at the other end."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.privileged import register_with_state
from rlmem.envs.tensor_env import LockstepEnv
from rlmem.errors import UsageError, at_least, positive


class Walk(NamedTuple):
    """The goal (-1 or 1), the position, whether the oracle was visited, the visible cue (or 0)."""

    goal: Int[Tensor, "N"]
    x: Int[Tensor, "N"]
    y: Int[Tensor, "N"]
    visited: Bool[Tensor, "N"]
    cue: Int[Tensor, "N"]


class TMaze(LockstepEnv[Walk]):
    """A corridor x = 0..end with the oracle at x = 0 and the junction at `end`, next to y = 1 and
    -1.

    The agent starts at x = oracle_length. It moves by one cell, or not at all against a wall. An
    episode has corridor_length + 2 * oracle_length + 1 steps: just enough to visit the oracle, walk
    to the junction and turn. Hidden is the goal, -1 or 1. It is visible only in the first
    observation at x = 0.

    Observations: (0, goal or 0) at x = 0, (0, 0) elsewhere in the corridor, (1, y) at the junction
    and beyond. Without `ambiguous_position`: (x, y, goal or 0). `expose_goal` (needs that) keeps
    showing the goal after the first visit: a control that needs no memory. `add_timestep` adds the
    number of steps taken.

    Reward: `goal_reward` at the last step if y is the goal. In the steps t = 1, 2, .. before,
    `penalty` (at most 0) if x < t - oracle_length, that is, if the agent lags behind one that lost
    no step; and `distract_reward` if x = 0.
    """

    MOVES: ClassVar = ("→", "↑", "←", "↓")

    def __init__(
        self,
        corridor_length: int,
        oracle_length: int,
        goal_reward: float,
        penalty: float | None,
        distract_reward: float,
        ambiguous_position: bool,
        expose_goal: bool,
        add_timestep: bool,
        **options: Any,
    ) -> None:
        self.oracle_length = at_least("oracle_length", oracle_length, 0)
        self.end = oracle_length + positive("corridor_length", corridor_length)
        self.length = self.end + oracle_length + 1
        self.goal_reward, self.distract_reward = goal_reward, distract_reward
        self.penalty = -1 / corridor_length if penalty is None else penalty
        if self.penalty > 0:
            raise UsageError(f"penalty must be at most 0, not {penalty}")
        if expose_goal and ambiguous_position:
            raise UsageError("expose_goal needs ambiguous_position=false")
        self.ambiguous, self.expose_goal = ambiguous_position, expose_goal
        self.add_timestep = add_timestep
        low, high = ([0, -1], [1, 1]) if ambiguous_position else ([0, -1, -1], [self.end, 1, 1])
        if add_timestep:
            low, high = [*low, 0], [*high, self.length]
        super().__init__(
            observation_space=Box(np.array(low, np.float32), np.array(high, np.float32)),
            action_space=Discrete(4),
            **options,
        )

    def initial_state(self, draws: RandomDraws) -> Walk:
        """Random goals."""
        goal = 2 * draws.below(2, 1)[0] - 1
        x = torch.full_like(goal, self.oracle_length)
        return self._arrive(goal, x, torch.zeros_like(goal), self._flags(False))

    def transition(self, state: Walk, t: int, action: Tensors) -> tuple[Walk, Float[Tensor, "N"]]:
        """A move, and the reward of the new position."""
        move = action["action"]
        right, up = (move == 0).long() - (move == 2).long(), (move == 1).long() - (move == 3).long()
        x = torch.where(state.y == 0, (state.x + right).clamp(0, self.end), state.x)
        y = torch.where(state.x == self.end, (state.y + up).clamp(-1, 1), state.y)
        t += 1
        if t == self.length:
            reward = (y == state.goal) * self.goal_reward
        else:
            reward = (x < t - self.oracle_length) * self.penalty
            reward = reward + (x == 0) * self.distract_reward
        return self._arrive(state.goal, x, y, state.visited), reward.to(torch.float32)

    def _arrive(self, goal: Tensor, x: Tensor, y: Tensor, visited: Tensor) -> Walk:
        at_oracle = x == 0
        cue = torch.where(at_oracle & ~visited, goal, 0)
        visited = visited | at_oracle
        if self.expose_goal:
            cue = torch.where(visited, goal, 0)
        return Walk(goal, x, y, visited, cue)

    def observe(self, state: Walk, t: int) -> Tensors:
        """The position as far as it is visible, the cue, and perhaps the time."""
        seen = [state.x, state.y, state.cue]
        if self.ambiguous:
            # y is 0 at the oracle, and the cue is 0 elsewhere.
            seen = [state.x == self.end, state.y + state.cue]
        if self.add_timestep:
            seen.append(torch.full_like(state.x, t))
        return {"obs": torch.stack(seen, dim=1).to(torch.float32)}

    def hidden_space(self) -> Box:
        """Goal, share of the way to the junction, side, and whether the goal was shown."""
        return Box(np.array([-1, 0, -1, 0], np.float32), np.ones(4, np.float32))

    def observe_hidden(self, state: Walk, t: int) -> Tensors:
        """The goal and the position."""
        leaves = [state.goal, state.x / self.end, state.y, state.visited]
        return {"privileged": torch.stack([leaf.to(torch.float32) for leaf in leaves], dim=1)}

    def best_action(self) -> Tensors:
        """Right, and at the junction to the goal, if nothing is paid at the oracle."""
        state = self.state
        return {"action": torch.where(state.x == self.end, 2 - state.goal, 0)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible position, and the cue."""
        seen = [round(number) for number in obs["obs"][row].tolist()]
        time = f" t={seen.pop()}" if self.add_timestep else ""
        if not self.ambiguous:
            x, y, cue = seen
            return f"x={x} y={y}" + (f" goal {_side(cue)}" if cue else "") + time
        junction, side = seen
        if junction:
            return ("junction" if side == 0 else f"{_side(side)} of the junction") + time
        return (f"oracle: {_side(side)}" if side else "corridor") + time

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return self.MOVES[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The goal and the position."""
        return f"goal {_side(int(self.state.goal[row]))}, x={int(self.state.x[row])} of {self.end}"


def _side(y: int) -> str:
    return "up" if y > 0 else "down"


@register_with_state("tmaze-passive")
class TMazePassive(TMaze):
    """The passive T-maze of Ni et al. 2023, "When do transformers shine in RL?", arXiv 2307.03864:
    the agent starts at the oracle, so it must remember the cue but need not look for it. See
    `TMaze`. `penalty` null is -1 / corridor_length as in the paper: standing still costs 1.

    Return: 1 at the optimum (right corridor_length times, then turn to the goal), 0.5 without
    memory, -0.97 for random play in the default corridor.
    """

    def __init__(
        self,
        num_envs: int,
        corridor_length: int = 10,
        goal_reward: float = 1.0,
        penalty: float | None = None,
        distract_reward: float = 0.0,
        ambiguous_position: bool = True,
        expose_goal: bool = False,
        add_timestep: bool = False,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            corridor_length,
            0,
            goal_reward,
            penalty,
            distract_reward,
            ambiguous_position,
            expose_goal,
            add_timestep,
            num_envs=num_envs,
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )


@register_with_state("tmaze-active")
class TMazeActive(TMaze):
    """The active T-maze of Ni et al. 2023, "When do transformers shine in RL?", arXiv 2307.03864:
    the agent starts `oracle_length` cells (1 in the paper) to the right of the oracle. It has to
    walk there first, and is rewarded for it only at the end of the episode. See `TMaze`. `penalty`
    null is -1 / corridor_length as in the paper.

    Return: 1 at the optimum (left to the oracle, right to the junction, turn to the goal), 0.5 for
    an agent that walks to the junction at once or forgets the cue, -0.97 for random play in the
    default corridor.
    """

    def __init__(
        self,
        num_envs: int,
        corridor_length: int = 10,
        oracle_length: int = 1,
        goal_reward: float = 1.0,
        penalty: float | None = None,
        distract_reward: float = 0.0,
        ambiguous_position: bool = True,
        expose_goal: bool = False,
        add_timestep: bool = False,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            corridor_length,
            positive("oracle_length", oracle_length),
            goal_reward,
            penalty,
            distract_reward,
            ambiguous_position,
            expose_goal,
            add_timestep,
            num_envs=num_envs,
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )
