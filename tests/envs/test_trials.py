"""Trials: observations, memory resets and ends of episodes, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem import envs
from rlmem.data.rollout import Collector
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies.actor_critic import ActorCritic


class Lengths:
    """Environment i has episodes of `lengths[i]` steps, cyclically.

    Observation and reward are 10 times the episode's number plus that of the step. Episodes of odd
    numbers are truncated, the others terminated.
    """

    def __init__(self, *lengths: Sequence[int]) -> None:
        self.num_envs, self.device = len(lengths), torch.device("cpu")
        self.lengths = lengths
        self.observation_space: Any = {"obs": spaces.Discrete(1000)}
        self.action_space: Any = {"action": spaces.Discrete(9)}

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        self.episode, self.t = [0] * self.num_envs, [0] * self.num_envs
        return self._observe()

    def step(self, action: Tensors) -> Transition:
        self.t = [t + 1 for t in self.t]
        final, done = self._observe(), []
        for i, lengths in enumerate(self.lengths):
            done.append(self.t[i] == lengths[self.episode[i] % len(lengths)])
        truncated = [end and e % 2 == 1 for end, e in zip(done, self.episode, strict=True)]
        terminated = [end and e % 2 == 0 for end, e in zip(done, self.episode, strict=True)]
        for i in range(self.num_envs):
            self.episode[i] += done[i]
            self.t[i] *= not done[i]
        flags = torch.tensor(terminated), torch.tensor(truncated)
        return Transition(self._observe(), final["obs"].float(), *flags, final, flags[0] | flags[1])

    def close(self) -> None: ...

    def _observe(self) -> Tensors:
        numbers = [10 * e + t for e, t in zip(self.episode, self.t, strict=True)]
        return {"obs": torch.tensor(numbers)}


def stream(env: VecEnv, steps: int) -> tuple[list[Tensors], list[Transition]]:
    """The observations (one more) and results of the actions 1 + t."""
    seen, played = [env.reset(0)], []
    for t in range(steps):
        played.append(env.step({"action": torch.full((env.num_envs,), 1 + t)}))
        seen.append(played[-1].obs)
    return seen, played


def column(tensors: Sequence[torch.Tensor], i: int) -> list[float]:
    return [tensor[i].item() for tensor in tensors]


def test_spaces_include_the_history() -> None:
    env = Trials(Lengths([1]), episodes=2)
    assert env.observation_space == {
        "obs": spaces.Discrete(1000),
        "previous_action": spaces.Discrete(9),
        "start": spaces.Discrete(2),
        "previous_reward": spaces.Box(-np.inf, np.inf, (), np.float32),
        "previous_done": spaces.Discrete(2),
        "episode": spaces.Box(0.0, 1.0, (), np.float32),
    }
    assert isinstance(env, VecEnv)


@pytest.mark.parametrize("stop_returns", [False, True])
def test_observations_in_two_trials_of_three_episodes(stop_returns: bool) -> None:
    # Environment 0 has episodes of 2, 1, 2 and 2 steps, the other one of 1 step.
    env = Trials(Lengths([2, 1, 2, 2, 1, 1], [1]), episodes=3, stop_returns=stop_returns)
    seen, _ = stream(env, 7)
    expected = {
        "obs": ([0, 1, 10, 20, 21, 30, 31, 40], [0, 10, 20, 30, 40, 50, 60, 70]),
        "previous_action": ([0, 1, 2, 3, 4, 0, 6, 7], [0, 1, 2, 0, 4, 5, 0, 7]),
        "start": ([1, 0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1, 0]),
        "previous_reward": ([0, 1, 2, 11, 21, 0, 31, 32], [0, 1, 11, 0, 31, 41, 0, 61]),
        "previous_done": ([0, 0, 1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 1, 0, 1]),
        "episode": ([0, 0, 0.5, 1, 1, 0, 0, 0.5], [0, 0.5, 1, 0, 0.5, 1, 0, 0.5]),
    }
    assert set(seen[0]) == set(expected)
    for key, rows in expected.items():
        for i, row in enumerate(rows):
            assert column([obs[key] for obs in seen], i) == row, key


def test_only_the_end_of_a_trial_is_reported_unless_returns_stop() -> None:
    lengths = [2, 1, 2, 2, 1, 1]
    inner = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 1]).bool()
    ends = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1]).bool()
    truncated = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0, 1]).bool()
    for stop_returns, shown in ((False, ends), (True, inner)):
        _, played = stream(Trials(Lengths(lengths), 3, stop_returns=stop_returns), 9)
        assert [bool(s.memory_reset) for s in played] == ends.tolist()
        assert [bool(s.terminated) for s in played] == (shown & ~truncated).tolist()
        assert [bool(s.truncated) for s in played] == (shown & truncated).tolist()
        assert column([s.reward for s in played], 0) == [1, 2, 11, 21, 22, 31, 32, 41, 51]


@pytest.mark.parametrize("stop_returns", [False, True])
def test_a_final_observation_is_that_of_a_continued_episode(
    stop_returns: bool,
) -> None:
    _, played = stream(Trials(Lengths([2, 1]), 2, stop_returns=stop_returns), 3)
    for step in played:
        same = all(torch.equal(step.obs[key], leaf) for key, leaf in step.final_obs.items())
        assert same == (not step.done)
    final = played[-1].final_obs
    assert {key: leaf.item() for key, leaf in final.items()} == {
        "obs": 11,
        "previous_action": 3,
        "start": 0,
        "previous_reward": 11,
        "previous_done": 0,
        "episode": 1,
    }
    if stop_returns:
        final = played[1].final_obs
        assert (final["obs"], final["episode"], final["previous_done"]) == (2, 0, 0)


def test_the_episode_number_is_that_of_the_next_step_and_never_written_to() -> None:
    env = Trials(Lengths([2, 1], [1, 3]), episodes=2)
    env.reset(0)
    numbers = [env.episode]
    for _ in range(6):
        env.step({"action": torch.zeros(2, dtype=torch.int64)})
        numbers.append(env.episode)
    assert column(numbers, 0) == [0, 0, 1, 0, 0, 1, 0]
    assert column(numbers, 1) == [0, 1, 1, 1, 0, 1, 1]
    assert env.reset(0)["episode"].tolist() == env.episode.tolist() == [0, 0]


def test_episodes_beyond_the_horizon_look_like_its_last_one() -> None:
    short, long = Trials(Lengths([1]), 3), Trials(Lengths([1]), 6, horizon=3)
    assert short.observation_space == long.observation_space
    assert column([obs["episode"] for obs in stream(long, 6)[0]], 0) == [0, 0.5, 1, 1, 1, 1, 0]
    assert column([obs["episode"] for obs in stream(Trials(Lengths([1]), 1), 2)[0]], 0) == [0] * 3


def test_trials_of_one_episode_are_the_episodes() -> None:
    plain, trials = Lengths([2, 1, 3], [1, 2]), Trials(Lengths([2, 1, 3], [1, 2]), 1)
    for ours, theirs in zip(stream(trials, 12)[1], stream(plain, 12)[1], strict=True):
        assert torch.equal(ours.memory_reset, theirs.done)
        for name in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        for key in ("obs", "final_obs"):
            assert torch.equal(getattr(ours, key)["obs"], getattr(theirs, key)["obs"])


@pytest.mark.parametrize("bad", [0, -1])
def test_invalid_numbers_are_refused(bad: int) -> None:
    with pytest.raises(UsageError, match="episodes must be"):
        Trials(Lengths([1]), bad)
    with pytest.raises(UsageError, match="horizon must be"):
        Trials(Lengths([1]), 2, horizon=bad)


def test_tasks_for_another_number_of_episodes_are_refused() -> None:
    tasks = envs.make("meta-bandit", num_envs=2, episodes=5)
    with pytest.raises(UsageError, match="trials of 4 episodes on tasks that last for 5"):
        Trials(tasks.env, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gym", {"id": "CartPole-v1"}),
        ("popgym-battleship", {"previous_action": True}),
        ("popgym-position-only-pendulum", {"backend": "package"}),
        ("tmaze-passive", {}),
    ],
)
def test_trials_do_not_change_the_episodes_of_an_environment(
    name: str, options: dict[str, Any]
) -> None:
    plain = envs.make(name, num_envs=3, **options)
    trials = Trials(envs.make(name, num_envs=3, **options), episodes=3)
    first, firsts = plain.reset(3), trials.reset(3)
    space = plain.action_space["action"]
    space.seed(0)
    ended = torch.zeros(3, dtype=torch.int64)
    for _ in range(650):
        assert torch.equal(firsts["obs"], first["obs"])
        action = torch.as_tensor(np.stack([space.sample() for _ in range(3)]))
        ours, theirs = trials.step({"action": action}), plain.step({"action": action})
        assert torch.equal(ours.reward, theirs.reward)
        assert torch.equal(ours.memory_reset, theirs.done & ((ended + theirs.done) % 3 == 0))
        ended = ended + theirs.done
        assert torch.equal(trials.episode, ended % 3)
        final = {key: leaf[ours.memory_reset] for key, leaf in ours.final_obs.items()}
        assert torch.equal(final["obs"], theirs.final_obs["obs"][ours.memory_reset])
        first, firsts = theirs.obs, ours.obs
    assert ended.min() >= 3
    plain.close()
    trials.close()


@pytest.mark.parametrize("stop_returns", [False, True])
def test_memory_lasts_for_the_trial(stop_returns: bool) -> None:
    env = Trials(Lengths([2, 1], [1, 1, 3]), episodes=2, stop_returns=stop_returns)
    policy = ActorCritic(env.observation_space, env.action_space, core="gru", hidden_size=8)
    collector = Collector(env, policy, 20, [0, 1])
    rollout = collector.collect()
    starts = {0: [0, 3, 6, 9, 12, 15, 18], 1: [0, 2, 6, 10, 12, 16]}
    for i, steps in starts.items():
        assert rollout.start[i].nonzero()[:, 0].tolist() == steps
    assert torch.equal(rollout.obs["start"].bool(), rollout.start)
    with torch.no_grad():
        _, value = policy(rollout.obs, rollout.state, rollout.start)
    # Scanning rows from their first state equals stepping.
    torch.testing.assert_close(value, rollout.value)
    ends = rollout.terminated | rollout.truncated
    assert int(ends[0].sum()) == (13 if stop_returns else 6)
    # Trials of 3 steps in one environment, of 2, 4, 4, 2, 4 and 4 in the other.
    metrics = collector.episode_metrics()
    assert metrics["episodes"] == 12
    assert metrics["episode_length"] == pytest.approx((6 * 3 + 20) / 12)
