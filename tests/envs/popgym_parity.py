"""Compares a batched POPGym task with the package's own environments, from the same state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import popgym.envs
import torch
from popgym.wrappers import Antialias, PreviousAction

from rlmem import envs
from rlmem.envs.base import Tensors
from rlmem.envs.popgym.task import FAMILIES
from rlmem.envs.spaces import FlatSpace
from rlmem.envs.tensor_env import StateEnv, TensorEnv

# Makes a batched environment copy the hidden state of the originals, now and at every new episode.
Attach = Callable[[Any, list[Any]], None]
# The leaves of an original's hidden state.
Hidden = Callable[[Any], Tensors]
# Chooses an action for an original environment.
ChooseAction = Callable[[Any], Any]
# Numbers of episodes by their end (terminated, truncated).
Ends = Counter[tuple[bool, bool]]

envs.names()  # fills FAMILIES


def original(name: str, difficulty: str) -> gym.Env:
    return getattr(popgym.envs, FAMILIES[name] + difficulty.capitalize())()


class Parity:
    """N original environments, and a batched one that must do the same one step later."""

    def __init__(
        self,
        name: str,
        difficulty: str,
        attach: Attach,
        num_envs: int = 10,
        hidden: Hidden | None = None,
    ) -> None:
        self.originals: list[Any] = [original(name, difficulty) for _ in range(num_envs)]
        self.hidden = hidden
        self.wrapped = [Antialias(PreviousAction(env)) for env in self.originals]
        self.env: Any = envs.make(
            name,
            num_envs=num_envs,
            difficulty=difficulty,
            previous_action=True,
            privileged=hidden is not None,
        )
        inner = self.env.env
        assert isinstance(inner, TensorEnv)
        if isinstance(inner, StateEnv):
            # New initial states are drawn in every step, after the originals have reset.
            inner.shortest = inner.spares = 1
        attach(inner, self.originals)
        count = len(self.wrapped[0].observation_space.spaces) - 2
        self.names = ["obs"] if count == 1 else [f"obs.{i}" for i in range(count)]
        self.names += [*("previous_" + key for key in self.env.action_space), "start"]
        self.space = FlatSpace("obs", self.wrapped[0].observation_space)

    def check_episodes(self, at_least: int, choose: ChooseAction | None = None) -> Ends:
        """Compare until every environment has ended two episodes, and all together `at_least`.

        Actions are random, or those of `choose`, which may read hidden states. Returns the ends.
        """
        seeds = range(100, 100 + len(self.wrapped))
        samples = [env.reset(seed=seed)[0] for env, seed in zip(self.wrapped, seeds, strict=True)]
        self._assert_obs(self.env.reset(0), samples, self._states())
        space = self.env.action_space["action"]
        space.seed(1)
        episodes = np.zeros(len(self.wrapped), int)
        ends: Ends = Counter()
        while episodes.min() < 2 or episodes.sum() < at_least:
            action = np.stack([choose(env) if choose else space.sample() for env in self.originals])
            flags = self._check_step(action.astype(space.dtype))
            ends.update(pair for pair in flags if any(pair))
            episodes += [any(pair) for pair in flags]
        return ends

    def _check_step(self, action: Any) -> list[tuple[bool, bool]]:
        finals, samples, rewards, terminated, truncated = [], [], [], [], []
        last_states: list[Tensors] = []
        for env, act in zip(self.wrapped, action, strict=True):
            sample, reward, is_terminated, is_truncated, _ = env.step(act)
            finals.append(sample)
            last_states += self._states(len(last_states))
            if is_terminated or is_truncated:
                sample, _ = env.reset()
            samples.append(sample)
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
        step = self.env.step({"action": torch.from_numpy(action)})
        np.testing.assert_allclose(step.reward.numpy(), np.float32(rewards), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(step.terminated.numpy(), terminated)
        np.testing.assert_array_equal(step.truncated.numpy(), truncated)
        self._assert_obs(step.final_obs, finals, last_states)
        self._assert_obs(step.obs, samples, self._states())
        return list(zip(terminated, truncated, strict=True))

    def _states(self, row: int | None = None) -> list[Tensors]:
        """The hidden states of all originals, or of one; none if they are not compared."""
        if self.hidden is None:
            return []
        return [
            self.hidden(env) for env in self.originals[slice(row, None if row is None else row + 1)]
        ]

    def _assert_obs(self, obs: Tensors, samples: list[Any], states: list[Tensors]) -> None:
        expected = self.space.stack(samples)
        hidden = {
            key: torch.stack([state[key] for state in states]) for key in states[:1] and states[0]
        }
        assert [name for name in obs if name not in hidden] == self.names
        for name, leaf in hidden.items():
            given = obs[name]
            assert given.is_floating_point() == leaf.is_floating_point(), name
            torch.testing.assert_close(given, leaf.to(given.dtype), rtol=1e-5, atol=1e-5)
        for name, leaf in zip(self.names, expected.values(), strict=True):
            assert obs[name].dtype == leaf.dtype
            torch.testing.assert_close(obs[name], leaf, rtol=1e-5, atol=1e-5)
