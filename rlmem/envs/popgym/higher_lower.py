"""HigherLower: guess whether the next card is higher or lower."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.cards import DECK, RANKS, rank
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import Script, ScriptedEnv

GUESSES = ("higher", "lower")


@task(
    "popgym-higher-lower",
    package="HigherLower",
    previous_action=False,
    easy={"num_decks": 1},
    medium={"num_decks": 2},
    hard={"num_decks": 3},
)
class HigherLower(ScriptedEnv):
    """See a rank; guess whether the next one is higher (0) or lower (1). A tie earns 0."""

    def __init__(self, num_decks: int, **options: Any) -> None:
        ranks = Discrete(len(RANKS))
        super().__init__(observation_space=ranks, action_space=Discrete(2), **options)
        self.cards = DECK * num_decks
        self.length = self.cards - 1
        self.reward = 1 / self.cards

    def deal(self, draws: RandomDraws) -> Tensor:
        """Cards in dealing order, [cards, N]."""
        return draws.shuffle(self.cards)

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with newly dealt cards; the answers are the rewards of the guess `higher`."""
        ranks = rank(self.deal(draws)).to(torch.int8)
        earned = (ranks[1:] - ranks[:-1]).sign_().to(torch.float32).mul_(self.reward)
        return Script({"obs": ranks}, earned)

    def score(self, state: Script, t: int, action: Tensor) -> Float[Tensor, "N"]:
        """The reward of step t: the reward of `higher`, or its negative."""
        side = (action == 0).to(torch.float32).mul_(2).sub_(1)
        return side.mul_(state.answer[t])

    def hidden_space(self) -> Box:
        """For each rank the share of its cards that were shown."""
        return Box(0.0, 1.0, (len(RANKS),))

    def observe_hidden(self, state: Script, t: int) -> Tensors:
        """The counts of POPGym's `get_state`."""
        shown = torch.stack(list(state.obs["obs"][: t + 1]), dim=1).long()
        kinds = torch.arange(len(RANKS), device=self.device)
        counts = (shown[..., None] == kinds).sum(dim=1)
        return {"privileged": counts / (self.cards / len(RANKS))}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible rank."""
        return RANKS[int(obs["obs"][row])]

    def describe_action(self, action: Tensors, row: int) -> str:
        """The guess."""
        return GUESSES[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The next rank."""
        return RANKS[int(self.state.obs["obs"][self.t + 1][row])]
