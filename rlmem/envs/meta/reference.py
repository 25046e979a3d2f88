"""What agents are compared with, for every environment that draws tasks."""

from __future__ import annotations

from typing import Any

from rlmem.envs.base import VecEnv, inside
from rlmem.envs.meta.arms import ArmsEnv
from rlmem.envs.meta.bandit_players import bandit_players
from rlmem.envs.meta.players import Oracle, Player, Random, knows_best
from rlmem.envs.meta.posterior_sampling import PSRL
from rlmem.envs.meta.tabular_mdp import TabularMDP
from rlmem.envs.meta.task_env import TaskEnv


def references(env: VecEnv) -> dict[str, Player]:
    """Players of `env`, by name, from the worst to the best: always `random`, `oracle` where there
    is one that knows the hidden task, and between them what is known to learn well.

    They observe `env`, which must be wrapped in `Trials`; those that know something of the hidden
    tasks know those that it plays just now, and so play no other one.
    """
    inner: TaskEnv[Any, Any] | None = inside(env, TaskEnv)
    found: dict[str, Player] = {"random": Random(env)}
    if isinstance(inner, ArmsEnv):
        found |= bandit_players(inner)
    if isinstance(inner, TabularMDP):
        found["psrl"] = PSRL(inner)
    if inner is not None and knows_best(inner):
        found["oracle"] = Oracle(inner)
    return found
