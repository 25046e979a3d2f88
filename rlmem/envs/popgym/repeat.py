"""RepeatPrevious: name the suit of the card shown k - 1 cards before."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.cards import DECK, SUITS, suits_left
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import Script, ScriptedEnv


@task(
    "popgym-repeat",
    package="RepeatPrevious",
    previous_action=False,
    easy={"num_decks": 1, "k": 4},
    medium={"num_decks": 2, "k": 32},
    hard={"num_decks": 3, "k": 64},
)
class RepeatPrevious(ScriptedEnv):
    """The observation is a suit; the right action is the suit of k - 1 cards before, if any."""

    def __init__(self, num_decks: int, k: int, **options: Any) -> None:
        super().__init__(observation_space=Discrete(4), action_space=Discrete(4), **options)
        self.k = k
        self.cards = DECK * num_decks
        self.length = self.cards - 1
        self.reward = 1 / (self.cards - k)

    def deal(self, draws: RandomDraws) -> Tensor:
        """Suits in dealing order, [cards, N]."""
        return draws.kinds(1, len(SUITS), self.cards // len(SUITS)).squeeze(1)

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with newly dealt cards."""
        suits = self.deal(draws)
        return Script({"obs": suits}, suits.roll(self.k - 1, 0))

    def asked(self, t: int) -> bool:
        """True after k cards have been seen."""
        return t + 1 >= self.k

    def hidden_space(self) -> Dict:
        """The last k suits (0 before the first), and the share of each suit still in the deck."""
        return Dict(cards=MultiDiscrete([len(SUITS)] * self.k), left=Box(0.0, 1.0, (len(SUITS),)))

    def observe_hidden(self, state: Script, t: int) -> Tensors:
        """The state of POPGym's `get_state`."""
        dealt = torch.stack(list(state.obs["obs"][: t + 1]), dim=1).long()
        cards = dealt[:, -self.k :]
        cards = torch.nn.functional.pad(cards, (self.k - cards.shape[1], 0))
        return {"privileged.cards": cards, "privileged.left": suits_left(dealt, self.cards)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible suit."""
        return SUITS[int(obs["obs"][row])]

    def describe_action(self, action: Tensors, row: int) -> str:
        """The named suit."""
        return SUITS[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The suit to name."""
        return SUITS[int(self.state.answer[self.t][row])] if self.asked(self.t) else ""
