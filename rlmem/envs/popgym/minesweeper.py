"""MineSweeper: open all squares without a mine; each shows only the number of mines nearby."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from jaxtyping import Bool, Float, Int, Int16, UInt8
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym import boards, legal
from rlmem.envs.popgym.task import task
from rlmem.envs.tensor_env import StateEnv

# A square holds the number of mines on it and its neighbours, plus MINE if it has one itself.
MINE, COUNT = 16, 15


class Field(NamedTuple):
    """A game: its squares, the squares that must not be opened (again), and the last observation.

    Bit s of `shut` is set if square s has a mine or has been opened.
    """

    squares: UInt8[Tensor, "N squares"]
    shut: Int[Tensor, "N"]
    steps: Int16[Tensor, "N"]
    seen: UInt8[Tensor, "N"]


def _around(size: int) -> UInt8[Tensor, "squares squares"]:
    """The value that a mine on square i adds to square j."""
    places = torch.arange(size * size)
    row, column = places // size, places % size
    near = (row - row[:, None]).abs().max((column - column[:, None]).abs()) <= 1
    return near.to(torch.uint8) + MINE * torch.eye(size * size, dtype=torch.uint8)


@task(
    "popgym-minesweeper",
    package="MineSweeper",
    previous_action=True,
    maskable=True,
    easy={"size": 4, "mines": 2},
    medium={"size": 6, "mines": 6},
    hard={"size": 8, "mines": 10},
)
class MineSweeper(StateEnv[Field]):
    """Open a square; the observation is the number of mines on and around it. At most 8 x 8.

    With `action_mask` squares that were not opened are legal.
    """

    spares = 16

    def __init__(self, size: int, mines: int, action_mask: bool = False, **options: Any) -> None:
        seen = Discrete(min(mines + 1, 10))
        super().__init__(
            observation_space=legal.space(seen, (size, size)) if action_mask else seen,
            action_space=MultiDiscrete([size, size]),
            **options,
        )
        self.size, self.squares, self.mines = size, size * size, mines
        self.masked = action_mask
        free = self.squares - mines
        self.corners = torch.arange(self.num_envs, device=self.device) * self.squares
        self.around = _around(size).to(self.device)
        # For opening a new square, a square that was opened before, and a mine.
        rewards = [1 / free, -0.5 / (free - 2), -0.5 - 1 / free]
        self.rewards = torch.tensor(rewards, device=self.device)
        self.bits = torch.ones((), dtype=torch.int64, device=self.device) << torch.arange(
            self.squares, device=self.device
        )
        self.all_shut = self.bits.sum()
        # Tensors, because making one from a number in every step takes as long as using it.
        self.mine, self.count = torch.tensor([MINE, COUNT], dtype=torch.uint8, device=self.device)
        self.free, self.one = torch.tensor([free, 1], dtype=torch.int16, device=self.device)

    def initial_state(self, draws: RandomDraws) -> Field:
        """Closed fields with random mines."""
        return self.lay(draws.shuffle(self.squares, self.mines).to(torch.int32))

    def lay(self, mines: Int[Tensor, "mines M"]) -> Field:
        """Closed fields with mines on these squares."""
        squares = self.around.index_select(0, mines[0])
        shut = self.bits.index_select(0, mines[0])
        for mine in mines[1:]:
            squares += self.around.index_select(0, mine)
            shut += self.bits.index_select(0, mine)
        none = squares.new_zeros(len(squares))
        return Field(squares, shut, none.to(torch.int16), none)

    def transition(
        self, state: Field, action: Tensors
    ) -> tuple[Field, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Open a square. A mine or the last free square terminates; `free` steps truncate."""
        row, column = action["action"].unbind(1)
        place = torch.add(column, row, alpha=self.size)
        square = state.squares.view(-1).index_select(0, self.corners + place)
        mine = square >= self.mine
        was_shut = state.shut.bitwise_right_shift(place).bitwise_and_(1)
        reward = self.rewards.index_select(0, was_shut.add_(mine))
        state.shut.bitwise_or_(self.bits.index_select(0, place))
        terminated = mine.logical_or_(state.shut == self.all_shut)
        truncated = (state.steps.add_(self.one) == self.free) > terminated
        seen = square.bitwise_and_(self.count)
        return Field(state.squares, state.shut, state.steps, seen), reward, terminated, truncated

    def observe(self, state: Field) -> Tensors:
        """The number of mines on and around the last opened square."""
        seen = state.seen.long()
        if not self.masked:
            return {"obs": seen}
        # A mine is shut from the beginning, but nobody has opened it.
        closed = (state.shut[:, None] & self.bits == 0) | (state.squares >= MINE)
        return legal.observation(seen, closed.unflatten(1, (self.size, -1)))

    def hidden_space(self) -> MultiDiscrete:
        """Each square, row by row: closed without a mine (0), mine (1), open (2)."""
        return MultiDiscrete([3] * self.squares)

    def observe_hidden(self, state: Field) -> Tensors:
        """The field, as in POPGym's `get_state`."""
        shut = (state.shut[:, None] & self.bits) != 0
        mine = state.squares >= self.mine
        return {"privileged": torch.where(mine, 1, 2 * shut)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The number of mines nearby."""
        return f"{int(legal.seen(obs)[row])} near"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The opened square."""
        return "row {} column {}".format(*action["action"][row].tolist())

    def reveal(self, row: int) -> str:
        """The field: mines ✱, closed squares ·, opened squares with the number of mines nearby."""
        shut = (self.state.shut[row] >> torch.arange(self.squares, device=self.device)) & 1
        shown = [
            "✱" if square >= MINE else str(square) if opened else "·"
            for square, opened in zip(self.state.squares[row].tolist(), shut.tolist(), strict=True)
        ]
        return boards.text(shown, self.size)
