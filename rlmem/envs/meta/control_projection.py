"""Control tasks behind random matrices on observations and actions (after Lu et al. 2023, arXiv
2303.03982)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlmem.envs.meta.projection import Projection
from rlmem.envs.meta.task_env import meta


@meta("meta-control-projection", episodes=4, stop_returns=True)
class ControlProjection(Projection):
    """One of several control tasks in each trial, with new matrices.

    Held out are other matrices (split `heldout`) and other tasks (`heldout-families`).
    """

    def __init__(
        self,
        families: Sequence[str] = ("cartpole", "mountain-car", "acrobot", "reacher"),
        heldout_families: Sequence[str] = ("pendulum", "swing-up", "ball-balance"),
        obs_dim: int = 8,
        act_dim: int = 2,
        length: int = 50,
        projections: int | None = None,
        repeat: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(
            families, heldout_families, obs_dim, act_dim, length, projections, repeat, **options
        )
