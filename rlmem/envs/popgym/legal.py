"""The legal actions of POPGym's board and card games, offered as a mask in the observations."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from torch import Tensor, uint8

from rlmem.envs.base import Tensors
from rlmem.envs.info_mask import OBSERVATION, with_mask
from rlmem.spaces.action_mask import NAME

SEEN, MASK = f"obs.{OBSERVATION}", f"obs.{NAME}"


def space(seen: Space, places: tuple[int, ...]) -> Dict:
    """The space of observations with a mask of `places`."""
    return with_mask(seen, Box(0, 1, places, np.uint8))


def observation(seen: Tensor, legal: Tensor) -> Tensors:
    """An observation with its mask; `legal` are booleans [N, *places]."""
    return {MASK: legal.to(uint8), SEEN: seen}


def seen(obs: Tensors) -> Tensor:
    """The observation itself, with or without a mask beside it."""
    return obs[SEEN] if SEEN in obs else obs["obs"]
