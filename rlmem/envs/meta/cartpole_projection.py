"""A cart-pole behind random matrices on observations and actions (after Lu et al. 2023, arXiv
2303.03982)."""

from __future__ import annotations

from typing import Any

from rlmem.envs.meta.projection import Projection
from rlmem.envs.meta.task_env import meta


@meta("meta-cartpole-projection", episodes=8, stop_returns=True)
class CartPoleProjection(Projection):
    """CartPole with new matrices in each trial; held out are other matrices."""

    def __init__(
        self,
        obs_dim: int = 4,
        act_dim: int = 1,
        length: int = 200,
        projections: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(["cartpole"], [], obs_dim, act_dim, length, projections, **options)
