"""Trials: several episodes on one task, without a memory reset between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Int
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, Transition, VecEnv, find_wrapped
from rlmem.envs.meta.splits import DrawsTasks
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.tensor_env import TensorEnv
from rlmem.errors import UsageError, positive
from rlmem.ranks import shards
from rlmem.spaces.unit_box import UnitBox


class Trials(PreviousAction):
    """Wrapper that joins `episodes` episodes of `env` into one trial, and resets memory only at its
    start.

    Observations include what an agent needs to learn from its own past (Duan et al. 2016, "RL^2",
    arXiv 1611.02779). Besides the leaves of `env` they are

    - `previous_action` and `start` of `PreviousAction`, where `start` marks the start of a trial;
    - `previous_reward` (Box, float32 [N]): the reward of the last step, 0 at the start;
    - `previous_done` (Discrete(2), int64 [N]): whether the last step ended an episode, so that this
      is the first observation of the next one in the same trial;
    - `episode` (Box, float32 [N]): the position of the episode in the trial, from 0 for the first
      to 1 for number `horizon - 1`. Later ones are 1 too, so that an agent trained in trials of
      `horizon` episodes can be tested in longer ones.

    For the algorithm a trial is one long episode: `terminated` and `truncated` are those of its
    last step, and returns continue across its episodes. With `stop_returns`, `terminated` and
    `truncated` are those of every episode, so returns stop there, while `memory_reset` stays False
    inside a trial: memory continues.

    With `unit_reward` the space of `previous_reward` is a `UnitBox`: its scale is known to be 1. By
    default that holds for environments on tensors.

    An environment that draws tasks must draw one for the same number of `episodes` (see
    `DrawsTasks`); a `UsageError` otherwise. Any other environment has a single task, or a new one
    in every episode.
    """

    def __init__(
        self,
        env: VecEnv,
        episodes: int,
        horizon: int | None = None,
        stop_returns: bool = False,
        unit_reward: bool | None = None,
    ) -> None:
        super().__init__(env)
        self.episodes = positive("episodes", episodes)
        self.horizon = positive("horizon", episodes if horizon is None else horizon)
        self.stop_returns = stop_returns
        inner: DrawsTasks | None = find_wrapped(env, DrawsTasks)
        if inner is not None and inner.episodes != episodes:
            raise UsageError(
                f"trials of {episodes} episodes on tasks that last for {inner.episodes}"
            )
        self.unit_reward = unit_reward
        if unit_reward is None:
            self.unit_reward = find_wrapped(env, TensorEnv) is not None
        number = (UnitBox if self.unit_reward else Box)(-np.inf, np.inf, (), np.float32)
        self.observation_space |= {
            "previous_reward": number,
            "previous_done": Discrete(2),
            "episode": Box(0.0, 1.0, (), np.float32),
        }
        # For each environment, the number of the present episode in its trial.
        self.episode: Int[Tensor, "N"] = self._zeros

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new trial in every environment. An int seeds environment i with `seed + i`."""
        self.episode = self._zeros
        nothing = torch.zeros(self.num_envs, device=self.device)
        return self._add_history(super().reset(seed), nothing, self._zeros, self.episode)

    def state_dict(self) -> dict[str, Any] | None:
        """The present trials; None if the episodes of `env` cannot be saved."""
        inner = super().state_dict()
        return None if inner is None else {"env": inner, "episode": self.episode.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the trials of a `state_dict`; raises the errors of `env`."""
        super().load_state_dict(state["env"])
        self.episode = state["episode"].to(self.device)

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The state of these trials from those of all ranks; raises the errors of `env`."""
        inner = super().reshard([state["env"] for state in states], first)
        episode = [state["episode"] for state in states]
        return {"env": inner, "episode": shards.rows(episode, first, self.num_envs)}

    def _play(self, action: Tensors) -> Transition:
        step = self.env.step(action)
        done, before = step.done, self.episode
        after = before + done
        over = after == self.episodes
        self.episode = torch.where(over, 0, after)
        inner = done & ~over
        obs = self._add_history(
            step.obs, torch.where(over, 0, step.reward), inner.long(), self.episode
        )
        # The observation if the episode continued: truncated returns bootstrap from it.
        final_obs = self._add_history(step.final_obs, step.reward, self._zeros, before)
        if self.stop_returns:
            return step._replace(obs=obs, final_obs=final_obs, memory_reset=over)
        return Transition(
            obs=obs,
            reward=step.reward,
            terminated=step.terminated & over,
            truncated=step.truncated & over,
            final_obs={key: tree.select(over, final_obs[key], leaf) for key, leaf in obs.items()},
            memory_reset=over,
        )

    def _add_history(self, obs: Tensors, reward: Tensor, done: Tensor, episode: Tensor) -> Tensors:
        position = (episode / max(self.horizon - 1, 1)).clamp(max=1)
        history = {"previous_reward": reward, "previous_done": done, "episode": position}
        return {**obs, **history}
