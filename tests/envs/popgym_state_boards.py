"""Hidden states of the package's board games in the form of the batched ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from popgym.envs.minesweeper import HiddenSquare
from torch import Tensor

from rlmem.envs.popgym.battleship import Sea
from rlmem.envs.popgym.minesweeper import Field


def stack(grids: list[Any]) -> Tensor:
    """Grids of the originals, [N, squares]."""
    return torch.from_numpy(np.stack(grids).reshape(len(grids), -1))


def attach_seas(env: Any, originals: list[Any]) -> None:
    def initial_state(draws: Any) -> Sea:
        board = stack([env.board for env in originals]).to(torch.uint8)
        none = torch.zeros(len(originals), dtype=torch.int16)
        return Sea(board, none, none, none.bool())

    env.initial_state = initial_state


def attach_fields(env: Any, originals: list[Any]) -> None:
    def initial_state(draws: Any) -> Field:
        mines = stack([env.hidden_grid for env in originals]) == HiddenSquare.MINE
        return env.lay(mines.nonzero()[:, 1].view(len(originals), -1).t().int())

    env.initial_state = initial_state


ATTACH = {"popgym-battleship": attach_seas, "popgym-minesweeper": attach_fields}
