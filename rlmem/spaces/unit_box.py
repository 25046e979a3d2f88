"""A space of numbers whose scale is known, though they have no bounds."""

from __future__ import annotations

import gymnasium as gym


class UnitBox(gym.spaces.Box):
    """A Box without bounds, whose entries are of the size of 1 by design: it needs no normaliser.

    It equals a Box with the same bounds, shape and dtype.
    """
