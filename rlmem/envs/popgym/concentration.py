"""Concentration: turn cards over two at a time and find the pairs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Dict, Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym import legal
from rlmem.envs.popgym.cards import COLORS, DECK, RANKS
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import StateEnv

KINDS = {"color": COLORS, "rank": RANKS}
LINE = 26  # cards in a line of text


class Table(NamedTuple):
    """A game: the kinds of its cards, the visible board (`down` for a card's back), the number of
    pairs found, and the number of steps taken (`clock`).

    `last` and `before` are the last two places turned over, counted through all games. Cards are
    turned back only when the next card is turned: the value to restore at these places is
    `covered_last` and `covered_before`. If `opened`, the last card waits for a second one.
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
    maskable=True,
    easy={"num_decks": 1, "kind": "color"},
    medium={"num_decks": 2, "kind": "color"},
    hard={"num_decks": 1, "kind": "rank"},
)
class Concentration(StateEnv[Table]):
    """Turn one card over; the observation is the kinds of all face-up cards.

    Two cards of the same kind, turned one after the other, stay face up. Any other two are turned
    back when the next card is turned over. Turning a card that is already face up also turns back
    the card that waits for a second one. With `action_mask` a card is legal if it is face down when
    it is turned over: not one of a pair found, and not the card that waits.
    """

    spares = 2

    def __init__(
        self, num_decks: int, kind: str, action_mask: bool = False, **options: Any
    ) -> None:
        self.names = KINDS[kind]
        self.places = DECK * num_decks
        self.down = len(self.names)
        self.masked = action_mask
        seen = MultiDiscrete([self.down + 1] * self.places)
        super().__init__(
            observation_space=legal.space(seen, (self.places,)) if action_mask else seen,
            action_space=Discrete(self.places),
            **options,
        )
        self.shortest = self.places
        # The average number of steps of a player with perfect memory, rounded up.
        self.length = math.ceil(2 * self.places - self.places / (2 * self.places - 1))
        fee, pair = 1 / self.length, 2 / self.places
        # Index: 1 if a card waited, plus 2 if a face-up card was turned, plus 4 for a pair.
        earned = [0.0, -2 * fee, -fee, -2 * fee, 0.0, pair]
        self._earned = torch.tensor(earned, device=self.device)
        self._rows = torch.arange(self.num_envs, device=self.device) * self.places

    def deal(self, draws: RandomDraws) -> UInt8[Tensor, "cards M"]:
        """The kind of the card at each place."""
        return draws.kinds(1, self.down, self.places // self.down).squeeze(1)

    def initial_state(self, draws: RandomDraws) -> Table:
        """New games, all cards face down."""
        cards = self.deal(draws).T.contiguous()
        board = torch.full_like(cards, self.down)
        none = torch.zeros_like(cards[:, 0])
        down = torch.full_like(none, self.down)
        first = self._rows.repeat(draws.size // self.num_envs)
        return Table(cards, board, first, down, first, down, none.bool(), none, none)

    def apart(self, leaves: list[Tensor], num_envs: int) -> list[Tensor]:
        """As `WithState.apart`: places are counted from the first one of their own game."""
        return self._moved(leaves, -self.places)

    def together(self, leaves: list[Tensor]) -> list[Tensor]:
        """As `WithState.together`."""
        return self._moved(leaves, self.places)

    def _moved(self, leaves: list[Tensor], each: int) -> list[Tensor]:
        table = Table(*leaves)
        by = each * torch.arange(len(table.last), device=table.last.device)
        return list(table._replace(last=table.last + by, before=table.before + by))

    def transition(
        self, state: Table, action: Tensors
    ) -> tuple[Table, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Turn back unmatched cards, then turn one card over."""
        board = state.board.view(-1)
        board.index_copy_(0, state.before, state.covered_before)
        board.index_copy_(0, state.last, state.covered_last)
        place = self._rows + action["action"]
        card = state.cards.view(-1).index_select(0, place)
        seen = board.index_select(0, place)
        board.index_copy_(0, place, card)

        waited = state.opened
        hidden = seen == self.down
        # Turning the waiting card again counts neither as a pair nor as a face-up card.
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
        """The kinds of the face-up cards."""
        board = state.board.long()
        if not self.masked:
            return {"obs": board}
        # The board at the next turn, after unmatched cards were turned back.
        turned = state.board.clone()
        turned.view(-1).index_copy_(0, state.before, state.covered_before)
        turned.view(-1).index_copy_(0, state.last, state.covered_last)
        return legal.observation(board, turned == self.down)

    def _cover(self, card: Tensor, where: Tensor) -> Tensor:
        """`card`, or `down` in some places. `down` is the largest value: a maximum is fastest."""
        return torch.maximum(card, where.view(torch.uint8) * self.down)

    def hidden_space(self) -> Dict:
        """The kinds of all cards, and whether one waits for a second one."""
        return Dict(cards=MultiDiscrete([self.down] * self.places), waits=Discrete(2))

    def observe_hidden(self, state: Table) -> Tensors:
        """The cards; those face up are in the observation."""
        return {"privileged.cards": state.cards.long(), "privileged.waits": state.opened.long()}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The board, with a dot for a card's back."""
        return self._text(legal.seen(obs)[row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The place of the turned card."""
        return f"turn over {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """All cards."""
        return self._text(self.state.cards[row].tolist())

    def _text(self, kinds: list[int]) -> str:
        marks = [name[0] if name != "10" else "0" for name in self.names] + ["·"]
        text = "".join(marks[kind] for kind in kinds)
        return "\n".join(text[i : i + LINE] for i in range(0, len(text), LINE))
