"""Autoencode: watch a deck being dealt, then name its suits in reverse order."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.cards import DECK, SUITS
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import Script, ScriptedEnv


@task(
    "popgym-autoencode",
    package="Autoencode",
    previous_action=False,
    easy={"num_decks": 1},
    medium={"num_decks": 2},
    hard={"num_decks": 3},
)
class Autoencode(ScriptedEnv):
    """Observations are a phase, watch (1) or play (0), and a suit (0 after the first play step).

    The last card is dealt in the first play step, and its suit is the first to be named.
    """

    def __init__(self, num_decks: int, **options: Any) -> None:
        seen = Tuple((Discrete(2), Discrete(4)))
        super().__init__(observation_space=seen, action_space=Discrete(4), **options)
        self.cards = DECK * num_decks
        self.length = 2 * self.cards - 1
        self.reward = 1 / self.cards
        self._ones = torch.ones(self.num_envs, dtype=torch.uint8, device=self.device)
        self._zeros = torch.zeros_like(self._ones)

    def deal(self, draws: RandomDraws) -> Tensor:
        """Suits in dealing order, [cards, N]."""
        return draws.kinds(1, len(SUITS), self.cards // len(SUITS)).squeeze(1)

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with newly dealt cards."""
        suits = self.deal(draws)
        dealt, backward = suits.unbind(), suits.flip(0).unbind()
        mode = [self._ones] * (self.cards - 1) + [self._zeros] * (self.cards + 1)
        shown = [*dealt] + [self._zeros] * self.cards
        # The answers before the play steps are placeholders that are never read.
        return Script({"obs.0": mode, "obs.1": shown}, [*dealt[1:], *backward])

    def asked(self, t: int) -> bool:
        """True after the last card is dealt."""
        return t + 1 >= self.cards

    def hidden_space(self) -> Dict:
        """All suits in dealing order, and the share of the cards that are to be named."""
        cards = MultiDiscrete([len(SUITS)] * self.cards)
        return Dict(cards=cards, hand=Box(0.0, 1.0, ()))

    def observe_hidden(self, state: Script, t: int) -> Tensors:
        """The deck, and the size of the hand: it grows, then shrinks."""
        cards = torch.stack(list(state.obs["obs.1"][: self.cards]), dim=1).long()
        hand = min(t + 1, 2 * self.cards - 1 - t) / self.cards
        return {
            "privileged.cards": cards,
            "privileged.hand": torch.full((self.num_envs,), hand, device=self.device),
        }

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The visible suit, or the phase."""
        card = SUITS[int(obs["obs.1"][row])]
        if obs["obs.0"][row]:
            return f"watch {card}"
        return f"watch {card}, then play" if self.t + 1 == self.cards else "play"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The named suit."""
        return SUITS[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The suit to name."""
        return SUITS[int(self.state.answer[self.t][row])] if self.asked(self.t) else ""
