"""Concentration: turn over cards two at a time, and find the pairs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.popgym.cards import COLORS, DECK, RANKS
from rlmem.envs.popgym.task import task
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import StateEnv

KINDS = {"color": COLORS, "rank": RANKS}
LINE = 26  # cards in a line of what is written for people


class Table(NamedTuple):
    """A game: the kinds of its cards, what is seen of them now (`down` for a card's back), how
    many pairs were found and how many steps played.

    Of the last two places that were turned over (counted through all games), `covered` is what
    will be seen when the next card is turned: only then are cards turned back. If `opened`, the
    last card waits for a second one.
    """

    cards: UInt8[Tensor, "N cards"]
    board: UInt8[Tensor, "N cards"]
    last: Int[Tensor, "N"]
    covered_last: UInt8[Tensor, "N"]
    before: Int[Tensor, "N"]
    covered_before: UInt8[Tensor, "N"]
    opened: Bool[Tensor, "N"]
    pairs: UInt8[Tensor, "N"]
    clock: UInt8[Tensor, "N"]


@task(
    "popgym-concentration",
    package="Concentration",
    previous_action=True,
    easy={"num_decks": 1, "kind": "color"},
    medium={"num_decks": 2, "kind": "color"},
    hard={"num_decks": 1, "kind": "rank"},
)
class Concentration(StateEnv[Table]):
    """Sees the kinds of the cards that lie face up, and turns one over.

    Two of a kind, turned one after the other, stay; any other two are turned back when the next
    card is turned over. Who turns a card that lies face up loses the one that waits for a second.
    """

    spares = 2

    def __init__(self, num_decks: int, kind: str, **options: Any) -> None:
        self.names = KINDS[kind]
        self.places = DECK * num_decks
        self.down = len(self.names)
        super().__init__(
            observation_space=MultiDiscrete([self.down + 1] * self.places),
            action_space=Discrete(self.places),
            **options,
        )
        self.shortest = self.places
        # How many steps a player with perfect memory needs on average (rounded up).
        self.length = math.ceil(2 * self.places - self.places / (2 * self.places - 1))
        fee, pair = 1 / self.length, 2 / self.places
        # By whether a card waited, plus 2 if a face-up card was turned, plus 4 for a pair.
        earned = [0.0, -2 * fee, -fee, -2 * fee, 0.0, pair]
        self._earned = torch.tensor(earned, device=self.device)
        self._rows = torch.arange(self.num_envs, device=self.device) * self.places

    def deal(self, draws: Draws) -> UInt8[Tensor, "cards M"]:
        """The kind of the card at each place."""
        return draws.kinds(1, self.down, self.places // self.down).squeeze(1)

    def draw(self, draws: Draws) -> Table:
        """New games, all cards face down."""
        cards = self.deal(draws).T.contiguous()
        board = torch.full_like(cards, self.down)
        none = torch.zeros_like(cards[:, 0])
        down = torch.full_like(none, self.down)
        first = self._rows.repeat(draws.size // self.num_envs)
        return Table(cards, board, first, down, first, down, none.bool(), none, none)

    def advance(
        self, state: Table, action: Tensors
    ) -> tuple[Table, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Turn back what has to be, then turn over a card."""
        board = state.board.view(-1)
        board.index_copy_(0, state.before, state.covered_before)
        board.index_copy_(0, state.last, state.covered_last)
        place = self._rows + action["action"]
        card = state.cards.view(-1).index_select(0, place)
        seen = board.index_select(0, place)
        board.index_copy_(0, place, card)

        waited = state.opened
        hidden = seen == self.down
        # The card that waits can itself be turned again: that is no pair and no face-up card.
        face_up = ~(hidden | (waited & (place == state.last)))
        pair = waited & hidden & (card == state.covered_last)
        code = torch.add(waited.view(torch.uint8), face_up.view(torch.uint8), alpha=2)
        code.add_(pair.view(torch.uint8), alpha=4)

        pairs = state.pairs + pair
        clock = state.clock + 1
        after = Table(
            state.cards,
            state.board,
            last=place,
            covered_last=self._cover(card, code == 1),
            before=state.last,
            covered_before=self._cover(state.covered_last, waited & ~pair),
            opened=code == 0,
            pairs=pairs,
            clock=clock,
        )
        reward = self._earned.index_select(0, code.long())
        return after, reward, pairs == self.places // 2, clock == self.length

    def observe(self, state: Table) -> Tensors:
        """The kinds of the cards that lie face up."""
        return {"obs": state.board.long()}

    def _cover(self, card: Tensor, where: Tensor) -> Tensor:
        """`down` in some places; as it is the largest number, a maximum of bytes is the fastest."""
        return torch.maximum(card, where.view(torch.uint8) * self.down)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The table, with a dot for a card's back."""
        return self._write(obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The place of the card that is turned over."""
        return f"turn over {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """All cards."""
        return self._write(self.state.cards[row].tolist())

    def _write(self, kinds: list[int]) -> str:
        marks = [name[0] if name != "10" else "0" for name in self.names] + ["·"]
        text = "".join(marks[kind] for kind in kinds)
        return "\n".join(text[i : i + LINE] for i in range(0, len(text), LINE))
