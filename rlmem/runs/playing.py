"""Episodes and trials played by an agent, for evaluations: their returns and a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.trials import Trials
from rlmem.policies import Policy
from rlmem.runs import stats
from rlmem.runs.guard import closing, environment_errors
from rlmem.runs.progress import Progress
from rlmem.runs.stop import LeftIteration, Stop

# Number of environments stepped in parallel; the result does not depend on it.
CHUNK = 128
# Steps after which an episode is cut.
MAX_STEPS = 10_000
# Seconds between updates of the progress.
SHOW_EVERY = 0.25


@runtime_checkable
class AgentStep(Protocol):
    """An action, and the agent's state after it."""

    @property
    def action(self) -> Tensors: ...

    @property
    def state(self) -> Any: ...


@runtime_checkable
class AgentLike(Protocol):
    """An agent to evaluate: a policy, or a reference player."""

    def initial_state(self, batch_size: int) -> Any: ...

    def act(
        self, obs: Tensors, state: Any, start: Tensor, deterministic: bool = False
    ) -> AgentStep: ...


class Watch:
    """Cuts episodes after `max_steps` steps, and shows the progress of an evaluation.

    `unfinished` counts the episodes (with trials: the trials) that were cut. A signal to `stop`
    ends the evaluation at its next step.
    """

    def __init__(
        self,
        max_steps: int = MAX_STEPS,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.max_steps = max_steps
        self.progress = progress
        self.stop = stop
        self.unfinished = 0
        self._before = 0  # episodes of earlier batches
        self._shown = 0.0

    def step(self, over: Tensor, steps: int, limit: int) -> bool:
        """Whether to go on after `steps` steps; `over` [N] marks the ended episodes."""
        if self.stop is not None and self.stop.requested is not None:
            raise LeftIteration
        if over.all():
            self._before += len(over)
            return False
        if steps >= limit:
            self.unfinished += int((~over).sum())
            self._before += len(over)
            return False
        if self.progress is not None and time.monotonic() - self._shown > SHOW_EVERY:
            self._shown = time.monotonic()
            done = self._before + int(over.sum())
            self.progress.show(done, f"step {steps:,} of at most {limit:,}")
        return True


def play(
    policy: Policy,
    make_env: Callable[[int], VecEnv],
    seeds: list[int],
    deterministic: bool = True,
    chunk: int = CHUNK,
    watch: Watch | None = None,
) -> list[float]:
    """The return of one episode per seed; with trials, the sum over the episodes of one trial.

    Each seed counts exactly once, so short episodes have no more weight than long ones.
    `make_env(num_envs)` makes an environment of `num_envs` copies. Without `watch`, episodes are
    cut after `MAX_STEPS` steps.
    """
    returns = play_trials(lambda env: policy, make_env, seeds, deterministic, chunk, watch)
    return returns.sum(axis=1).tolist()


@torch.no_grad()
def play_trials(
    make_agent: Callable[[VecEnv], AgentLike],
    make_env: Callable[[int], VecEnv],
    seeds: list[int],
    deterministic: bool,
    chunk: int = CHUNK,
    watch: Watch | None = None,
) -> Float[ndarray, "M K"]:
    """The returns of the K episodes of one trial for each seed; K = 1 without trials.

    `make_agent(env)` gets the environment, because the oracle reads its hidden state.
    """
    watch = watch or Watch()
    parts = []
    for first in range(0, len(seeds), chunk):
        part = seeds[first : first + chunk]
        env = make_env(len(part))
        with closing(env):
            found = play_batch(make_agent(env), env, part, deterministic, watch)
            parts.append(found.cpu().numpy())
    return np.concatenate(parts)


def play_batch(
    agent: AgentLike,
    env: VecEnv,
    seeds: list[int],
    deterministic: bool,
    watch: Watch | None = None,
) -> Float[Tensor, "N K"]:
    """The returns of the K episodes of one trial, or of one episode, after a reset with `seeds`.

    Steps after that do not count. float64, on the environment's device. Raises
    `EnvironmentFailure` for an exception of the environment.
    """
    watch = watch or Watch()
    with environment_errors():
        obs = env.reset(seeds)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    over = ~start
    trials = env if isinstance(env, Trials) else None
    episodes = trials.episodes if trials else 1
    total = torch.zeros(env.num_envs, episodes, dtype=torch.float64, device=env.device)
    state = agent.initial_state(env.num_envs)
    steps, limit = 0, watch.max_steps * episodes
    while watch.step(over, steps, limit):
        act = agent.act(obs, state, start, deterministic)
        now = trials.episode if trials else torch.zeros_like(over, dtype=torch.int64)
        with environment_errors():
            step = env.step(act.action)
        steps += 1
        reward = torch.where(over, 0, step.reward).double()
        total.scatter_add_(1, now[:, None], reward[:, None])
        start = step.memory_reset
        over |= start
        obs, state = step.obs, act.state
    return total


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, interquartile mean, standard deviation and extremes of the returns."""
    scores = np.asarray(returns, dtype=float)
    return {
        "episodes": len(returns),
        "return_mean": float(stats.mean(scores)),
        "return_iqm": float(stats.iqm(scores)),
        "return_std": float(scores.std()),
        "return_min": float(scores.min()),
        "return_max": float(scores.max()),
    }
