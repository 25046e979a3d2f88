"""T-mazes: the way to take at the junction is told at the other end of a corridor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float
from torch import Tensor

from rlmem.envs.base import Tensors, register
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import LockstepEnv
from rlmem.errors import UsageError, at_least, positive


class TMaze(LockstepEnv):
    """A corridor x = 0..end with the oracle at x = 0; at `end` one may turn to y = 1 or y = -1.

    The agent starts at x = oracle_length and moves by one cell or, against a wall, not at all. An
    episode has corridor_length + 2 * oracle_length + 1 steps: enough to visit the oracle, walk to
    the junction and turn, with none to spare. What is hidden is the goal, -1 or 1: it is seen in
    the first observation at x = 0 only.

    Observed: at x = 0 (0, goal or 0), elsewhere in the corridor (0, 0), at the junction and
    beyond it (1, y). With `ambiguous_position` off: (x, y, goal or 0). `expose_goal` (needs that)
    goes on showing the goal once it has been seen: a control that needs no memory.
    `add_timestep` adds the number of steps played.

    Reward: at the last step `goal_reward` where y is the goal. In the steps t = 1, 2, .. before,
    `penalty` (at most 0) where x < t - oracle_length, that is where the agent lags behind one that
    lost no step, and `distract_reward` where x = 0.
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

    def begin(self, draws: Draws) -> Tensors:
        """Draw the goals."""
        self.goal = 2 * draws.below(2, 1)[0] - 1
        self.x = torch.full_like(self.goal, self.oracle_length)
        self.y = torch.zeros_like(self.goal)
        self.visited = self._flags(False)
        return self._see(0)

    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """Move, and be paid for where that leads."""
        move = action["action"]
        right, up = (move == 0).long() - (move == 2).long(), (move == 1).long() - (move == 3).long()
        at_end = self.x == self.end
        self.x = torch.where(self.y == 0, (self.x + right).clamp(0, self.end), self.x)
        self.y = torch.where(at_end, (self.y + up).clamp(-1, 1), self.y)
        t += 1
        if t == self.length:
            reward = (self.y == self.goal) * self.goal_reward
        else:
            reward = (self.x < t - self.oracle_length) * self.penalty
            reward = reward + (self.x == 0) * self.distract_reward
        return self._see(t), reward.to(torch.float32)

    def _see(self, t: int) -> Tensors:
        at_oracle = self.x == 0
        told = torch.where(at_oracle & ~self.visited, self.goal, 0)
        self.visited = self.visited | at_oracle
        if self.expose_goal:
            told = torch.where(self.visited, self.goal, 0)
        seen = [self.x, self.y, told]
        if self.ambiguous:
            # At the oracle y is 0, elsewhere nothing is told.
            seen = [self.x == self.end, self.y + told]
        if self.add_timestep:
            seen.append(torch.full_like(self.x, t))
        return {"obs": torch.stack(seen, dim=1).to(torch.float32)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """Where the agent knows itself to be, and what the oracle says."""
        seen = [round(number) for number in obs["obs"][row].tolist()]
        time = f" t={seen.pop()}" if self.add_timestep else ""
        if not self.ambiguous:
            x, y, told = seen
            return f"x={x} y={y}" + (f" goal {_side(told)}" if told else "") + time
        junction, side = seen
        if junction:
            return ("junction" if side == 0 else f"{_side(side)} of the junction") + time
        return (f"oracle: {_side(side)}" if side else "corridor") + time

    def describe_action(self, action: Tensors, row: int) -> str:
        """An arrow."""
        return self.MOVES[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The goal, and where the agent is."""
        return f"goal {_side(int(self.goal[row]))}, x={int(self.x[row])} of {self.end}"


def _side(y: int) -> str:
    return "up" if y > 0 else "down"


@register("tmaze-passive")
class TMazePassive(TMaze):
    """The passive T-maze of Ni et al. 2023, "When do transformers shine in RL?", arXiv 2307.03864:
    the agent starts at the oracle, so that it must remember but need not look. See `TMaze`; with
    `penalty` null it is -1 / corridor_length as in the paper, so that standing still costs 1.

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
            device=device,
        )


@register("tmaze-active")
class TMazeActive(TMaze):
    """The active T-maze of Ni et al. 2023, "When do transformers shine in RL?", arXiv 2307.03864:
    the agent starts `oracle_length` cells (1 in the paper) to the right of the oracle and has to
    walk there first, though nothing but the end of the episode pays for it. See `TMaze`; with
    `penalty` null it is -1 / corridor_length as in the paper.

    Return: 1 at the optimum (left to the oracle, right to the junction, turn to the goal), 0.5 for
    an agent that walks to the junction at once or forgets what it was told, -0.97 for random play
    in the default corridor.
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
            device=device,
        )
