"""RepeatFirst: name the suit of the first card in every step."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.cards import DECK, SUITS, suits_left
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import Script, ScriptedEnv


@task(
    "popgym-repeat-first",
    package="RepeatFirst",
    previous_action=False,
    easy={"num_decks": 1},
    medium={"num_decks": 8},
    hard={"num_decks": 16},
)
class RepeatFirst(ScriptedEnv):
    """The observation is a suit; the right action is the first suit of the episode."""

    def __init__(self, num_decks: int, **options: Any) -> None:
        super().__init__(observation_space=Discrete(4), action_space=Discrete(4), **options)
        self.cards = DECK * num_decks
        self.length = self.cards - 1
        self.reward = 1 / self.length

    def deal(self, draws: RandomDraws) -> Tensor:
        """Suits in dealing order, [cards, N]."""
        return draws.kinds(1, len(SUITS), self.cards // len(SUITS)).squeeze(1)

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with newly dealt cards."""
        suits = self.deal(draws)
        return Script({"obs": suits}, suits[0].expand(self.length, -1))

    def hidden_space(self) -> Dict:
        """The first suit, and the share of each suit still in the deck."""
        return Dict(first=Discrete(len(SUITS)), left=Box(0.0, 1.0, (len(SUITS),)))

    def observe_hidden(self, state: Script, t: int) -> Tensors:
        """The state of POPGym's `get_state`."""
        dealt = torch.stack(list(state.obs["obs"][: t + 1]), dim=1).long()
        return {"privileged.first": dealt[:, 0], "privileged.left": suits_left(dealt, self.cards)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible suit."""
        return SUITS[int(obs["obs"][row])]

    def describe_action(self, action: Tensors, row: int) -> str:
        """The named suit."""
        return SUITS[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The suit of the first card."""
        return SUITS[int(self.state.answer[0][row])]
