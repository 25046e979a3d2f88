"""CountRecall: say how often a kind of card has been shown."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.popgym.cards import COLORS, DECK, RANKS, SUITS
from rlmem.envs.popgym.task import task
from rlmem.envs.streams import BLOCK, PAD, Draws
from rlmem.envs.tensor_env import Script, ScriptedEnv

KINDS = {"color": COLORS, "suit": SUITS, "rank": RANKS}
FEW = 4  # kinds, which are counted sooner by comparison


@task(
    "popgym-count-recall",
    package="CountRecall",
    previous_action=False,
    easy={"num_decks": 1, "kind": "color"},
    medium={"num_decks": 2, "kind": "suit"},
    hard={"num_decks": 4, "kind": "rank"},
)
class CountRecall(ScriptedEnv):
    """Sees the kinds of two cards, each from a pile of its own: one that is dealt, and one whose
    kind is to be counted among those dealt so far.
    """

    def __init__(self, num_decks: int, kind: str, **options: Any) -> None:
        self.names = KINDS[kind]
        kinds = len(self.names)
        self.cards = DECK * num_decks
        super().__init__(
            observation_space=MultiDiscrete([kinds, kinds]),
            action_space=Discrete(self.cards // kinds + 1),
            **options,
        )
        self.length = self.cards - 1
        self.reward = 1 / self.length

    def draw(self, draws: Draws) -> Tensor:
        """The kinds that are dealt, and those that are asked about, in order, [cards, 2, N]."""
        return draws.kinds(2, len(self.names), self.cards // len(self.names))

    def write(self, draws: Draws) -> Script:
        """Draw an episode for each environment."""
        drawn = self.draw(draws)
        dealt, queried = drawn.unbind(1)
        # As the two bytes of a number they come to lie beside each other sooner than by `stack`.
        both = queried.to(torch.int16).bitwise_left_shift_(8).add_(dealt).view(torch.uint8)
        obs = both.unflatten(-1, (-1, 2))
        few = len(self.names) <= FEW
        answer = self._compare(dealt, queried) if few else self._look_up(drawn)
        return Script({"obs": obs}, answer)

    def _compare(self, dealt: Tensor, queried: Tensor) -> Tensor:
        """How many of the first t cards are of the t-th kind that is asked about, [cards, N]."""
        kinds = torch.arange(len(self.names) - 1, dtype=torch.uint8, device=self.device)
        counts = (dealt[:, None] == kinds[:, None]).view(torch.uint8)
        for before, row in pairwise(counts.unbind()):
            row += before
        # What is of no other kind is of the last one.
        rest = torch.arange(1, self.cards + 1, dtype=torch.uint8, device=self.device)[:, None]
        answer = torch.zeros_like(dealt)
        for kind, count in enumerate(counts.unbind(1)):
            rest = rest - count
            # A product, which is several times faster on bytes than `where`.
            answer += (queried == kind).view(torch.uint8).mul_(count)
        return answer.add_((queried == len(kinds)).view(torch.uint8).mul_(rest))

    def _look_up(self, drawn: Tensor) -> Tensor:
        """The same in a time that does not depend on the number of kinds."""
        pitch = self.num_envs + PAD
        counts = drawn.new_zeros(len(self.names) * pitch)
        columns = torch.arange(self.num_envs, device=self.device)
        answer = torch.empty_like(drawn[:, 0])
        rows = max(1, BLOCK // (2 * self.num_envs))
        for cards, out in zip(drawn.split(rows), answer.split(rows), strict=True):
            places = torch.add(columns, cards.long(), alpha=pitch)
            dealt, queried = places.unbind(1)
            for here, there, row in zip(dealt, queried, out, strict=True):
                counts.index_copy_(0, here, counts.index_select(0, here).add_(1))
                torch.index_select(counts, 0, there, out=row)
        return answer

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The kind that is shown and the kind that is asked about."""
        dealt, queried = obs["obs"][row].tolist()
        return f"{self.names[dealt]}, how many {self.names[queried]}?"

    def reveal(self, row: int) -> str:
        """The right answer."""
        return str(int(self.script.answer[self.t][row]))
