"""Cards as in POPGym: card `c` of several decks combined, as an integer."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

SUITS = "♠♦♣♥"
COLORS = ("black", "red")
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
DECK = 52

Card = TypeVar("Card", int, Tensor)


def suit(card: Card) -> Card:
    """The suit, 0..3 in the order of `SUITS`."""
    return card & 3


def rank(card: Card) -> Card:
    """The rank, 0..12 in the order of `RANKS`."""
    return card % DECK >> 2


def name(card: int) -> str:
    """The name of a card, such as `10♥`."""
    return RANKS[rank(card)] + SUITS[suit(card)]


def suits_left(dealt: Int[Tensor, "N t"], cards: int) -> Float[Tensor, "N 4"]:
    """The share of each suit that is left of `cards` cards after the suits `dealt`."""
    kinds = torch.arange(len(SUITS), device=dealt.device)
    counts = (dealt[..., None] == kinds).sum(dim=1)
    return 1 - counts / (cards / len(SUITS))
