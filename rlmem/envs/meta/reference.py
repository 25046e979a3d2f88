"""Reference players of an environment that draws tasks."""

from __future__ import annotations

from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.meta.bandit_players import bandit_players
from rlmem.envs.meta.players import Oracle, Player, RandomPlayer
from rlmem.envs.meta.posterior_sampling import PSRL
from rlmem.envs.meta.tabular_mdp import TabularMDP
from rlmem.envs.meta.task_distribution import SolvableTasks
from rlmem.envs.meta.task_env import TaskEnv


def references(env: VecEnv) -> dict[str, Player]:
    """Reference players of `env` by name, from the worst to the best.

    `random` is always included, and `oracle` if the distribution has one (`SolvableTasks`). Between
    them are learning algorithms made for such tasks, if any.

    They act on the observations of `env`, which must be wrapped in `Trials`. Players that know the
    hidden tasks read the present tasks of `env`, so they cannot play another environment.
    """
    inner: TaskEnv | None = find_wrapped(env, TaskEnv)
    found: dict[str, Player] = {"random": RandomPlayer(env)}
    if inner is None:
        return found
    tasks = inner.distribution
    found |= bandit_players(inner)
    if isinstance(tasks, TabularMDP):
        found["psrl"] = PSRL(inner, tasks)
    if isinstance(tasks, SolvableTasks):
        found["oracle"] = Oracle(inner, tasks)
    return found
