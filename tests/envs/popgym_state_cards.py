"""Hidden states of the package's card games in the form of the batched ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.cards import rank, suit


def color(card: Tensor) -> Tensor:
    """Black and red suits alternate."""
    return card % 2


def decks(originals: list[Any], deck: str = "deck") -> Tensor:
    """Cards in dealing order, [cards, N]; the package deals from the end."""
    order = [getattr(env, deck).idx[::-1] for env in originals]
    return torch.from_numpy(np.stack(order, axis=1))


def attach_suits(env: Any, originals: list[Any]) -> None:
    env.deal = lambda draws: suit(decks(originals))


def attach_decks(env: Any, originals: list[Any]) -> None:
    env.deal = lambda draws: decks(originals)


def attach_two_decks(env: Any, originals: list[Any]) -> None:
    kind: Any = {2: color, 4: suit, 13: rank}[originals[0].num_distinct_cards]

    def deal(draws: RandomDraws) -> Tensor:
        piles = [decks(originals, name) for name in ("value_deck", "query_deck")]
        return kind(torch.stack(piles, 1)).to(torch.uint8)

    env.deal = deal


def attach_table(env: Any, originals: list[Any]) -> None:
    kind: Any = {2: color, 13: rank}[originals[0].facedown_card]

    def deal(draws: RandomDraws) -> Tensor:
        order = np.stack([game.deck.idx for game in originals], axis=1)
        return kind(torch.from_numpy(order)).to(torch.uint8)

    env.deal = deal


class RecordingGenerator:
    """A generator that records its last scalar result."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.last = 0.0

    def random(self, *args: Any, **kwargs: Any) -> Any:
        drawn = self.generator.random(*args, **kwargs)
        self.last = self.last if args else drawn
        return drawn


def attach_bandits(env: Any, originals: list[Any]) -> None:
    def draw_chances(draws: RandomDraws) -> Tensor:
        for bandit in originals:
            if not isinstance(bandit.np_random, RecordingGenerator):
                bandit.np_random = RecordingGenerator(bandit.np_random)
        return torch.from_numpy(np.stack([bandit.bandits for bandit in originals], axis=1))

    def luck() -> Tensor:
        drawn = np.array([bandit.np_random.last for bandit in originals])
        return torch.from_numpy((np.floor(drawn * 2**32) - 2**31).astype(np.int32))

    env.draw_chances, env.luck = draw_chances, luck


ATTACH = {
    "popgym-repeat": attach_suits,
    "popgym-repeat-first": attach_suits,
    "popgym-autoencode": attach_suits,
    "popgym-count-recall": attach_two_decks,
    "popgym-higher-lower": attach_decks,
    "popgym-bandit": attach_bandits,
    "popgym-concentration": attach_table,
}
