"""What the package's board games hide, as the batched ones hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlmem.envs.popgym.battleship import Sea


def stack(grids: list[Any]) -> Tensor:
    """Grids of the originals, [N, squares]."""
    return torch.from_numpy(np.stack(grids).reshape(len(grids), -1))


def attach_seas(env: Any, originals: list[Any]) -> None:
    def draw(draws: Any) -> Sea:
        board = stack([env.board for env in originals]).to(torch.uint8)
        none = torch.zeros(len(originals), dtype=torch.int16)
        return Sea(board, none, none, none.bool())

    env.draw = draw


ATTACH = {"popgym-battleship": attach_seas}
