"""Trials: several episodes on one task, through all of which the agent remembers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Int
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.previous_action import PreviousAction
from rlmem.errors import UsageError, positive


class Trials(PreviousAction):
    """`episodes` episodes of `env` in turn are one trial; memory is reset at its start only.

    The observation says what an agent needs to learn from its own past (Duan et al. 2016, "RL^2",
    arXiv 1611.02779): beside those of `env` its leaves are

    - `previous_action` and `start`, as `PreviousAction` has them, with a trial's start;
    - `previous_reward` (Box, float32 [N]): the reward of the step that led here, 0 at the start;
    - `previous_done` (Discrete(2), int64 [N]): whether that step ended an episode, so that this is
      the first observation of another one of the same trial;
    - `episode` (Box, float32 [N]): the number of the episode in the trial, as a share of the way
      from the first, 0, to number `horizon - 1`, 1. Later ones are 1 too, so that an agent
      trained in trials of `horizon` episodes may be tried in longer ones.

    A trial is to the algorithm one long episode: `terminated` and `truncated` are those of its last
    step, and returns flow over the borders of its episodes. With `stop_returns` each of them ends
    as it does in `env`, with `start` False: memory flows on, returns do not.

    Environments that draw tasks must draw one for as many `episodes` (`TaskEnv` does); any other
    one has but one task, or a new one in each episode. Raises `UsageError` where the two disagree.
    """

    def __init__(
        self, env: VecEnv, episodes: int, horizon: int | None = None, stop_returns: bool = False
    ) -> None:
        super().__init__(env)
        self.episodes = positive("episodes", episodes)
        self.horizon = positive("horizon", episodes if horizon is None else horizon)
        self.stop_returns = stop_returns
        drawn = getattr(env, "episodes", episodes)
        if drawn != episodes:
            raise UsageError(f"trials of {episodes} episodes on tasks that last for {drawn}")
        number = Box(-np.inf, np.inf, (), np.float32)
        self.observation_space |= {
            "previous_reward": number,
            "previous_done": Discrete(2),
            "episode": Box(0.0, 1.0, (), np.float32),
        }
        # Of each environment, the number in its trial of the episode that the next step belongs to.
        self.episode: Int[Tensor, "N"] = self._zeros

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new trial everywhere. An int seeds environment i with `seed + i`."""
        self.episode = self._zeros
        nothing = torch.zeros(self.num_envs, device=self.device)
        return self._tell(super().reset(seed), nothing, self._zeros, self.episode)

    def _play(self, action: Tensors) -> Transition:
        step = self.env.step(action)
        done, before = step.done, self.episode
        after = before + done
        over = after == self.episodes
        self.episode = torch.where(over, 0, after)
        inner = done & ~over
        obs = self._tell(step.obs, torch.where(over, 0, step.reward), inner.long(), self.episode)
        # What would be seen if the episode went on: that is what a truncated return goes on with.
        final_obs = self._tell(step.final_obs, step.reward, self._zeros, before)
        if self.stop_returns:
            return step._replace(obs=obs, final_obs=final_obs, start=over)
        return Transition(
            obs=obs,
            reward=step.reward,
            terminated=step.terminated & over,
            truncated=step.truncated & over,
            final_obs={key: tree.select(over, final_obs[key], leaf) for key, leaf in obs.items()},
            start=over,
        )

    def _tell(self, obs: Tensors, reward: Tensor, done: Tensor, episode: Tensor) -> Tensors:
        share = (episode / max(self.horizon - 1, 1)).clamp(max=1)
        told = {"previous_reward": reward, "previous_done": done, "episode": share}
        return {**obs, **told}
