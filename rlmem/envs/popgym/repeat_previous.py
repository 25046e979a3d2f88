"""RepeatPrevious: name the suit of the card shown some cards ago."""

from __future__ import annotations

from typing import Any

from gymnasium.spaces import Discrete
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.popgym.cards import DECK, SUITS
from rlmem.envs.popgym.task import task
from rlmem.envs.streams import Draws
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
    """Sees a suit, and is to name the one of k - 1 cards before, as soon as there is one."""

    def __init__(self, num_decks: int, k: int, **options: Any) -> None:
        super().__init__(observation_space=Discrete(4), action_space=Discrete(4), **options)
        self.k = k
        self.cards = DECK * num_decks
        self.length = self.cards - 1
        self.reward = 1 / (self.cards - k)

    def draw(self, draws: Draws) -> Tensor:
        """The suits in the order in which they are dealt, [cards, N]."""
        return draws.kinds(1, len(SUITS), self.cards // len(SUITS)).squeeze(1)

    def write(self, draws: Draws) -> Script:
        """Draw an episode for each environment."""
        suits = self.draw(draws)
        return Script({"obs": suits}, suits.roll(self.k - 1, 0))

    def asked(self, t: int) -> bool:
        """Once k cards have been seen."""
        return t + 1 >= self.k

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The suit that is shown."""
        return SUITS[int(obs["obs"][row])]

    def describe_action(self, action: Tensors, row: int) -> str:
        """The suit that is named."""
        return SUITS[int(action["action"][row])]

    def reveal(self, row: int) -> str:
        """The suit that is to be named."""
        return SUITS[int(self.script.answer[self.t][row])] if self.asked(self.t) else ""
