"""MultiarmedBandit: find the arm that pays most often, and keep pulling it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import LockstepEnv


class Arms(NamedTuple):
    """The chance of each arm, as float32 and as int32 limit, and the result of the last pull."""

    chance: Float[Tensor, "arms N"]
    limit: Int32[Tensor, "N*arms"]
    paid: Int[Tensor, "N"]


@task(
    "popgym-bandit",
    package="MultiarmedBandit",
    previous_action=True,
    easy={"arms": 10, "length": 200},
    medium={"arms": 20, "length": 400},
    hard={"arms": 30, "length": 600},
)
class MultiarmedBandit(LockstepEnv[Arms]):
    """Pull an arm in each step; the observation is whether it paid. Arms differ in their chance."""

    truncates = True

    def __init__(self, arms: int, length: int, **options: Any) -> None:
        super().__init__(observation_space=Discrete(2), action_space=Discrete(arms), **options)
        self.arms = arms
        self.length = length
        rows = torch.arange(self.num_envs, device=self.device)
        self._first_arm = rows * arms
        self._earned = torch.tensor([-1 / length, 1 / length], device=self.device)

    def draw_chances(self, draws: RandomDraws) -> Float[Tensor, "arms N"]:
        """The chance that each arm pays, a multiple of 2^-24."""
        return draws.uniform(self.arms)

    def luck(self) -> Int[Tensor, "N"]:
        """32 random bits for each environment, as int32."""
        return self.random_steps.half()

    def initial_state(self, draws: RandomDraws) -> Arms:
        """New arms before the first pull."""
        chance = self.draw_chances(draws)
        # An arm pays if its 32 random bits, as int32, are below this limit: exact to the last bit.
        limit = chance.T.double().mul_(2.0**32).sub_(2.0**31).to(torch.int32).reshape(-1)
        return Arms(chance, limit, torch.zeros_like(self._first_arm))

    def apart(self, leaves: list[Tensor], num_envs: int) -> list[Tensor]:
        """As `WithState.apart`."""
        chance, limit, paid = leaves
        return [chance, limit.view(num_envs, -1), paid]

    def together(self, leaves: list[Tensor]) -> list[Tensor]:
        """As `WithState.together`."""
        chance, limit, paid = leaves
        return [chance, limit.reshape(-1), paid]

    def transition(self, state: Arms, t: int, action: Tensors) -> tuple[Arms, Float[Tensor, "N"]]:
        """Pull an arm."""
        limit = state.limit.index_select(0, self._first_arm + action["action"])
        paid = (self.luck() < limit).long()
        return Arms(state.chance, state.limit, paid), self._earned.index_select(0, paid)

    def observe(self, state: Arms, t: int) -> Tensors:
        """Whether the last pull paid."""
        return {"obs": state.paid}

    def hidden_space(self) -> Box:
        """The chance of each arm."""
        return Box(0.0, 1.0, (self.arms,))

    def observe_hidden(self, state: Arms, t: int) -> Tensors:
        """The chances."""
        return {"privileged": state.chance.T}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """Whether the arm paid."""
        return "pays" if obs["obs"][row] else "nothing"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The pulled arm."""
        return f"arm {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """The chances of all arms."""
        return " ".join(f"{chance:.2f}" for chance in self.state.chance[:, row].tolist())
