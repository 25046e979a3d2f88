"""What the package's card games hide, as the batched ones hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def decks(originals: list[Any]) -> Tensor:
    """Cards in the order in which they are dealt, [cards, N]; the package deals from the end."""
    return torch.from_numpy(np.stack([env.deck.idx[::-1] for env in originals], axis=1).copy())


def attach_decks(env: Any, originals: list[Any]) -> None:
    env.draw = lambda draws: decks(originals)


ATTACH = {"popgym-repeat": attach_decks}
