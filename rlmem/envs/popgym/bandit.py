"""MultiarmedBandit: find the arm that pays best, and stay with it."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.popgym.task import task
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import LockstepEnv


@task(
    "popgym-bandit",
    package="MultiarmedBandit",
    previous_action=True,
    easy={"arms": 10, "length": 200},
    medium={"arms": 20, "length": 400},
    hard={"arms": 30, "length": 600},
)
class MultiarmedBandit(LockstepEnv):
    """Sees whether the arm that it pulled has paid; each arm pays with a chance of its own."""

    truncates = True

    def __init__(self, arms: int, length: int, **options: Any) -> None:
        super().__init__(observation_space=Discrete(2), action_space=Discrete(arms), **options)
        self.arms = arms
        self.length = length
        rows = torch.arange(self.num_envs, device=self.device)
        self._first_arm = rows * arms
        self._earned = torch.tensor([-1 / length, 1 / length], device=self.device)

    def draw(self, draws: Draws) -> Float[Tensor, "arms N"]:
        """The chance that each arm pays, on the grid of 2^-24."""
        return draws.uniform(self.arms)

    def luck(self) -> Int[Tensor, "N"]:
        """32 random bits for each environment, as int32."""
        return self.steps.half()

    def begin(self, draws: Draws) -> Tensors:
        """New arms; nothing has been paid yet."""
        self.chance = self.draw(draws)
        # An arm pays if its luck is below its chance: as int32, to the last bit.
        limit = self.chance.T.double().mul_(2.0**32).sub_(2.0**31)
        self._limit = limit.to(torch.int32).reshape(-1)
        return {"obs": torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)}

    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """Pull an arm."""
        pulled = self._limit.index_select(0, self._first_arm + action["action"])
        paid = (self.luck() < pulled).long()
        return {"obs": paid}, self._earned.index_select(0, paid)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """Whether the arm has paid."""
        return "pays" if obs["obs"][row] else "nothing"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The arm that is pulled."""
        return f"arm {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """The chances of all arms."""
        return " ".join(f"{chance:.2f}" for chance in self.chance[:, row].tolist())
