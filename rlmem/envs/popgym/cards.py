"""Decks of cards as POPGym has them: card c of any number of decks put together."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

SUITS = "♠♦♣♥"
COLORS = ("black", "red")
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
DECK = 52

Card = TypeVar("Card", int, Tensor)


def suit(card: Card) -> Card:
    """0..3 in the order of `SUITS`."""
    return card & 3


def rank(card: Card) -> Card:
    """0..12 in the order of `RANKS`."""
    return card % DECK >> 2


def name(card: int) -> str:
    """Such as `10♥`."""
    return RANKS[rank(card)] + SUITS[suit(card)]
