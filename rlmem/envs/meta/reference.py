"""Reference players of an environment."""

from __future__ import annotations

from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.meta.bandit_players import bandit_players
from rlmem.envs.meta.change_players import change_players
from rlmem.envs.meta.players import Oracle, Player, RandomPlayer, Solvable, StateOracle
from rlmem.envs.meta.posterior_sampling import PSRL
from rlmem.envs.meta.tabular_mdp import TabularMDP
from rlmem.envs.meta.task_distribution import SolvableTasks
from rlmem.envs.meta.task_env import TaskEnv


def references(env: VecEnv) -> dict[str, Player]:
    """Reference players of `env` by name, from the worst to the best.

    `random` is always included, and `oracle` if the environment or its distribution of tasks has
    one (`Solvable`, `SolvableTasks`). Between them are learning algorithms made for tasks, if any.

    They act on the observations of `env`. Tasks must be wrapped in `Trials`. Players that know
    hidden tasks or states read the present ones of `env`, so they cannot play another environment.
    """
    inner: TaskEnv | None = find_wrapped(env, TaskEnv)
    found: dict[str, Player] = {"random": RandomPlayer(env)}
    if inner is None:
        solvable: Solvable | None = find_wrapped(env, Solvable)
        return found if solvable is None else found | {"oracle": StateOracle(solvable)}
    tasks = inner.distribution
    found |= bandit_players(inner) | change_players(inner)
    if isinstance(tasks, TabularMDP):
        found["psrl"] = PSRL(inner, tasks)
    if isinstance(tasks, SolvableTasks):
        found["oracle"] = Oracle(inner, tasks)
    return found
