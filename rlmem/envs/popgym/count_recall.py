"""CountRecall: count how many cards of a kind have been shown."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import BLOCK, PAD, RandomDraws
from rlmem.envs.popgym.cards import COLORS, DECK, RANKS, SUITS
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import Script, ScriptedEnv

KINDS = {"color": COLORS, "suit": SUITS, "rank": RANKS}
FEW = 4  # up to so many kinds, counting by comparison is faster


@task(
    "popgym-count-recall",
    package="CountRecall",
    previous_action=False,
    easy={"num_decks": 1, "kind": "color"},
    medium={"num_decks": 2, "kind": "suit"},
    hard={"num_decks": 4, "kind": "rank"},
)
class CountRecall(ScriptedEnv):
    """Observations are the kinds of two cards, each from its own pile: the dealt card, and the
    query. The action is the number of cards of the queried kind among those dealt so far.
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

    def deal(self, draws: RandomDraws) -> Tensor:
        """Dealt kinds and queried kinds in order, [cards, 2, N]."""
        return draws.kinds(2, len(self.names), self.cards // len(self.names))

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with newly dealt cards."""
        drawn = self.deal(draws)
        dealt, queried = drawn.unbind(1)
        # Combining them as the two bytes of an integer is faster than `stack`.
        both = queried.to(torch.int16).bitwise_left_shift_(8).add_(dealt).view(torch.uint8)
        obs = both.unflatten(-1, (-1, 2))
        few = len(self.names) <= FEW
        answer = self._compare(dealt, queried) if few else self._look_up(drawn)
        return Script({"obs": obs}, answer)

    def _compare(self, dealt: Tensor, queried: Tensor) -> Tensor:
        """The count of the t-th queried kind among the cards up to t, by comparison, [cards, N]."""
        kinds = torch.arange(len(self.names) - 1, dtype=torch.uint8, device=self.device)
        counts = (dealt[:, None] == kinds[:, None]).view(torch.uint8)
        for before, row in pairwise(counts.unbind()):
            row += before
        # Cards of no other kind are of the last kind.
        rest = torch.arange(1, self.cards + 1, dtype=torch.uint8, device=self.device)[:, None]
        answer = torch.zeros_like(dealt)
        for kind, count in enumerate(counts.unbind(1)):
            rest = rest - count
            # On bytes a product is several times faster than `where`.
            answer += (queried == kind).view(torch.uint8).mul_(count)
        return answer.add_((queried == len(kinds)).view(torch.uint8).mul_(rest))

    def _look_up(self, drawn: Tensor) -> Tensor:
        """The same result in a time independent of the number of kinds."""
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

    def hidden_space(self) -> Box:
        """For each kind the share of its cards that were dealt, then the share of its queries."""
        return Box(0.0, 1.0, (2, len(self.names)))

    def observe_hidden(self, state: Script, t: int) -> Tensors:
        """The counts of POPGym's `get_state`."""
        shown = torch.stack(list(state.obs["obs"][: t + 1]), dim=1).long()
        kinds = torch.arange(len(self.names), device=self.device)
        counts = (shown[..., None] == kinds).sum(dim=1)
        return {"privileged": counts / (self.cards / len(self.names))}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The dealt and the queried kind."""
        dealt, queried = obs["obs"][row].tolist()
        return f"{self.names[dealt]}, how many {self.names[queried]}?"

    def reveal(self, row: int) -> str:
        """The right answer."""
        return str(int(self.state.answer[self.t][row]))
