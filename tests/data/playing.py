"""Replays filled by a policy, for the tests of replay and off-policy algorithms."""

from __future__ import annotations

from typing import Any

import torch

from rlmem.data.replay import Replay
from rlmem.envs.base import Tensors, Transition
from rlmem.policies import QPolicy
from tests.data.counting import Counting

LENGTHS, CUT = [3, 4, 5, 60], [True, False, False, True]


class Inner(Counting):
    """The memory is reset at every second episode only, as in trials of two episodes."""

    def step(self, action: Tensors) -> Transition:
        step = super().step(action)
        return step._replace(memory_reset=step.done & (self.episode % 2 == 0))


def make(env: Counting | None = None, core: str = "gru", **options: Any) -> Replay:
    env = env or Counting(LENGTHS, CUT)
    policy = QPolicy(env.observation_space, env.action_space, core=core, hidden_size=8)
    policy.epsilon = torch.tensor(0.5)
    small = {"capacity": 400, "batch_size": 16, "length": 8, "burn_in": 0, "stride": 4}
    return Replay(env, policy, **{**small, **options})


@torch.no_grad()
def play(replay: Replay, env: Counting, steps: int) -> list[tuple[Any, ...]]:
    """Adds steps to the replay; returns the arguments of every `replay.add`."""
    policy = replay.policy
    obs, start = env.reset(), torch.ones(env.num_envs, dtype=torch.bool)
    state = policy.initial_state(env.num_envs)
    added = []
    for _ in range(steps):
        action, following, *_ = policy.act(obs, state, start)
        step = env.step(action)
        added.append((obs, start, state, action, step))
        replay.add(*added[-1])
        obs, start, state = step.obs, step.memory_reset, following
    return added


def filled(steps: int = 330, env: Counting | None = None, **options: Any) -> Replay:
    """A replay with this many steps of each environment."""
    env = env or Counting(LENGTHS, CUT)
    replay = make(env, **options)
    play(replay, env, steps)
    return replay
