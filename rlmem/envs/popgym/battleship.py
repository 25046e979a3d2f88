"""Battleship: sink hidden ships; each shot shows only hit or miss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, below
from rlmem.envs.popgym import boards, legal
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import StateEnv

SHIPS = (2, 3, 3, 4)
# The values of a square; a shot at it adds SHOT.
WATER, SHIP, SHOT = 0, 1, 2
SQUARES = "·■○✕"

# Boards drawn at a time; more would not fit the cache.
BLOCK = 4096


class Sea(NamedTuple):
    """A game: its board, the numbers of hits and shots, and whether the last shot hit."""

    board: Integer[Tensor, "N squares"]
    hits: Integer[Tensor, "N"]
    shots: Integer[Tensor, "N"]
    hit: Bool[Tensor, "N"]


class Berths:
    """The places (berths) for a ship of `length` squares on a board of `size` x `size`.

    A line is a row or a column; rows come first. It is represented by the bits of its occupied
    squares. Berth `line * starts + start` occupies the squares of `line` from `start` on.
    """

    def __init__(self, size: int, length: int, device: torch.device) -> None:
        self.starts = size - length + 1
        ship = (1 << length) - 1 << torch.arange(self.starts)
        fits = torch.arange(1 << size)[:, None] & ship == 0
        # The number of berths of a line, and the starts of these berths from the last to the first.
        self.count = fits.sum(1, dtype=torch.int16).to(device)
        order = torch.arange(self.starts) + 1
        self.nth = (fits * order).sort(dim=1, descending=True).values.sub_(1).view(-1).to(device)
        # The squares of a berth, and the bits that it sets in every line.
        square = torch.zeros(2 * size, self.starts, size, size, dtype=torch.uint8)
        for line in range(size):
            for start in range(self.starts):
                square[line, start, line, start : start + length] = SHIP
                square[size + line, start, start : start + length, line] = SHIP
        square = square.view(-1, size, size)
        bit = 1 << torch.arange(size)
        lines = torch.cat([(square * bit).sum(2), (square * bit[:, None]).sum(1)], 1)
        self.squares = square.flatten(1).to(device)
        self.lines = lines.to(device, torch.int32)

    def taken(
        self, berth: Int[Tensor, "M"]
    ) -> tuple[Integer[Tensor, "M lines"], Integer[Tensor, "M squares"]]:
        """The bits of lines and the squares that a ship there occupies."""
        return self.lines.index_select(0, berth), self.squares.index_select(0, berth)

    def choose(self, lines: Integer[Tensor, "M lines"], word: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """A random free berth, uniformly."""
        count = self.count.index_select(0, lines.view(-1)).view(lines.shape)
        ends = count.cumsum(1, dtype=torch.int16)
        number = below(word, ends[:, -1])[:, None]
        line = torch.searchsorted(ends, number.to(torch.int16), right=True)
        from_last = ends.gather(1, line).sub(number).sub_(1)
        start = self.nth.take(lines.gather(1, line).mul(self.starts).add(from_last))
        return line.mul_(self.starts).add_(start).squeeze(1)


@task(
    "popgym-battleship",
    package="Battleship",
    previous_action=True,
    maskable=True,
    easy={"size": 8},
    medium={"size": 10},
    hard={"size": 12},
)
class Battleship(StateEnv[Sea]):
    """Shoot at a square; the observation is whether the shot hit a ship there for the first time.

    Ships are placed one after the other, each uniformly over its free berths. With `action_mask`
    squares that were not shot at are legal.
    """

    shortest = sum(SHIPS)
    spares = 4

    def __init__(self, size: int, action_mask: bool = False, **options: Any) -> None:
        seen = Discrete(2)
        super().__init__(
            observation_space=legal.space(seen, (size, size)) if action_mask else seen,
            action_space=MultiDiscrete([size, size]),
            **options,
        )
        self.masked = action_mask
        self.size, self.squares = size, size * size
        berths = {length: Berths(size, length, self.device) for length in set(SHIPS)}
        self.fleet = [berths[length] for length in SHIPS]
        self.corners = torch.arange(self.num_envs, device=self.device) * self.squares
        self.gain = torch.tensor(1 / sum(SHIPS), device=self.device)
        self.loss = torch.tensor(-1 / (self.squares - sum(SHIPS)), device=self.device)
        # Tensors, because making one from a number in every step takes as long as using it.
        self.ship, self.shot = torch.tensor([SHIP, SHOT], dtype=torch.uint8, device=self.device)
        self.all_hits, self.all_shots, self.one = torch.tensor(
            [sum(SHIPS), self.squares, 1], dtype=torch.int16, device=self.device
        )

    def initial_state(self, draws: RandomDraws) -> Sea:
        """Boards with all ships, before the first shot."""
        words = draws.bits(len(self.fleet))
        board = torch.cat([self.place(block) for block in words.split(BLOCK, 1)])
        none = board.new_zeros(draws.size, dtype=torch.int16)
        return Sea(board, none, none, none.bool())

    def place(self, words: Int[Tensor, "ships M"]) -> Integer[Tensor, "M squares"]:
        """Boards with a ship for each of the random words."""
        # For the first ship all berths are free.
        berths, word = self.fleet[0], words[0]
        berth = below(word, len(berths.lines))
        lines, board = berths.taken(berth)
        for berths, word in zip(self.fleet[1:], words[1:], strict=True):
            more_lines, more_squares = berths.taken(berths.choose(lines, word))
            lines |= more_lines
            board |= more_squares
        return board

    def transition(
        self, state: Sea, action: Tensors
    ) -> tuple[Sea, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A shot. Sinking all ships terminates; as many shots as squares truncate."""
        row, column = action["action"].unbind(1)
        at = torch.add(self.corners, row, alpha=self.size).add_(column)
        board = state.board.view(-1)
        square = board.index_select(0, at)
        hit = square == self.ship
        board.index_copy_(0, at, square.bitwise_or_(self.shot))
        state.hits.add_(hit)
        state.shots.add_(self.one)
        reward = torch.where(hit, self.gain, self.loss)
        ended = state.hits == self.all_hits, state.shots == self.all_shots
        return Sea(state.board, state.hits, state.shots, hit), reward, *ended

    def observe(self, state: Sea) -> Tensors:
        """Whether the last shot hit."""
        hit = state.hit.long()
        if not self.masked:
            return {"obs": hit}
        return legal.observation(hit, (state.board < SHOT).unflatten(1, (self.size, -1)))

    def hidden_space(self) -> MultiDiscrete:
        """The value of each square, row by row: water or ship, with or without a shot."""
        return MultiDiscrete([len(SQUARES)] * self.size**2)

    def observe_hidden(self, state: Sea) -> Tensors:
        """The board."""
        return {"privileged": state.board.long()}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """Hit or miss."""
        return "hit" if legal.seen(obs)[row] else "miss"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The target square."""
        return "row {} column {}".format(*action["action"][row].tolist())

    def reveal(self, row: int) -> str:
        """The board: water ·, ships ■, missed shots ○, hits ✕."""
        squares = self.state.board[row].tolist()
        return boards.text([SQUARES[square] for square in squares], self.size)
