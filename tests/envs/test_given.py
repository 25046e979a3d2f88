"""Environments given in Python: vector environments in every autoreset mode, places of classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from rlmem import envs
from rlmem.envs.base import Transition, VecEnv
from rlmem.envs.given import Batch, Copies, FirstRows, given, named
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.gym_ids import id_of
from rlmem.envs.gym_vector import GymnasiumVectorEnv
from rlmem.errors import UsageError

CPU = torch.device("cpu")


class Walk(gym.Env[Any, Any]):
    """Nested random observations; environment `number` ends after `number` + 2 steps."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
            "pair": spaces.Tuple([spaces.Discrete(9, start=3), spaces.Box(-1, 1, (2,))]),
        }
    )
    action_space = spaces.Dict({"move": spaces.Discrete(3, start=1), "push": spaces.Box(-1, 1)})

    def __init__(self, number: int = 0) -> None:
        self.length = number + 2

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.episode = 0, getattr(self, "episode", -1) + 1
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        over, odd = self.time == self.length, self.episode % 2 == 1
        return self._obs(), float(self.time), over and not odd, over and odd, {}

    def _obs(self) -> Any:
        state = 10 * self.episode + self.time
        image = np.full((2, 2, 3), state, np.uint8)
        return {"image": image, "pair": (3 + state % 9, np.full(2, state / 100, np.float32))}


FNS = [partial(Walk, number) for number in range(4)]


def play(env: VecEnv, steps: int = 30) -> list[Transition]:
    """Transitions of the same random actions."""
    generator = torch.Generator().manual_seed(0)
    env.reset(list(range(env.num_envs)))
    results = []
    for _ in range(steps):
        action = {
            "action.move": torch.randint(3, (env.num_envs,), generator=generator),
            "action.push": torch.rand(env.num_envs, 1, generator=generator),
        }
        results.append(env.step(action))
    return results


def same(one: Transition, other: Transition) -> None:
    for name in ("reward", "terminated", "truncated", "memory_reset"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for a, b in ((one.obs, other.obs), (one.final_obs, other.final_obs)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_vector_environment_gives_what_its_environments_give(mode: AutoresetMode) -> None:
    vector = RecordEpisodeStatistics(SyncVectorEnv(FNS, autoreset_mode=mode))
    for one, other in zip(play(GymVecEnv(vector)), play(GymVecEnv(FNS)), strict=True):
        same(one, other)


def test_next_step_resets_add_a_step_to_each_episode() -> None:
    vector = RecordEpisodeStatistics(SyncVectorEnv(FNS, autoreset_mode=AutoresetMode.NEXT_STEP))
    plain, given_ = play(GymVecEnv(FNS)), play(GymVecEnv(vector))
    for row in range(len(FNS)):
        real = [each for each in given_ if not each.memory_reset[row]]
        extra = [each for each in given_ if each.memory_reset[row]]
        assert extra
        # Without the extra steps, rewards and ends are those of the environments.
        for one, other in zip(real, plain, strict=False):
            for name in ("reward", "terminated", "truncated"):
                assert getattr(one, name)[row] == getattr(other, name)[row], name
            assert torch.equal(one.final_obs["obs.image"][row], other.final_obs["obs.image"][row])
        ends = [each for each in plain if each.done[row]]
        for one, other in zip(extra, ends, strict=False):
            # No return crosses an extra step, which begins the next episode.
            assert one.reward[row] == 0
            assert one.terminated[row] == other.terminated[row]
            assert one.truncated[row] == other.truncated[row]
            assert torch.equal(one.obs["obs.image"][row], other.obs["obs.image"][row])
            assert torch.equal(one.final_obs["obs.image"][row], other.final_obs["obs.image"][row])


def test_a_vector_environment_made_by_gymnasium() -> None:
    env = GymVecEnv(gym.make_vec("CartPole-v1", num_envs=3))
    obs, again = env.reset([5, 6, 7]), env.reset([5, 6, 7])
    assert torch.equal(obs["obs"], again["obs"])
    total, steps = torch.zeros(3), 0
    while not (step := env.step({"action": torch.ones(3).long()})).memory_reset.any():
        total, steps = total + step.reward, steps + 1
    assert step.done[step.memory_reset].all()
    assert total[step.memory_reset].unique().tolist() == [steps]


class Strange(VectorEnv):
    """A vector environment with one fault."""

    single_observation_space = spaces.Discrete(4)
    single_action_space = spaces.Discrete(2)
    num_envs = 2

    def __init__(self, mode: Any, reward: Any = (0.0, 0.0), obs: Any = (0, 1)) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.reward, self.obs = np.array(reward), np.array(obs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        return np.zeros(2, int), {}

    def step(self, actions: Any) -> Any:
        return self.obs, self.reward, np.array([True, False]), np.array([False, False]), {}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Strange(None), r"Strange must have its AutoresetMode in metadata\['autoreset_mode'\]"),
        (Strange(AutoresetMode.SAME_STEP), r"Strange gives no infos\['final_obs'\]"),
        (Strange(AutoresetMode.NEXT_STEP, (0.0, 0.0, 0.0)), r"reward is \[3\], not \[2\]"),
        (Strange(AutoresetMode.NEXT_STEP, obs=(0, 7)), "environment 1, step 1: obs is 7, not in"),
        (Strange(AutoresetMode.NEXT_STEP, obs=(0, 1, 2)), r"obs is \[3\], not \[2\]"),
    ],
)
def test_faults_of_a_vector_environment_are_one_line(env: Strange, message: str) -> None:
    def step() -> None:
        made = GymVecEnv(env)
        made.reset([1, 2])
        made.step({"action": torch.zeros(2).long()})

    with pytest.raises(UsageError, match=message):
        step()


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_the_first_rows_of_a_batch(rows: int) -> None:
    whole = envs.make("popgym-repeat", num_envs=4)
    part = FirstRows(envs.make("popgym-repeat", num_envs=4), rows)
    seeds = [3, 1, 4, 1]
    obs, some = whole.reset(seeds), part.reset(seeds[:rows])
    assert torch.equal(obs["obs"][:rows], some["obs"])
    for _ in range(60):
        action = torch.randint(4, (4,))
        one, other = whole.step({"action": action}), part.step({"action": action[:rows]})
        assert torch.equal(one.reward[:rows], other.reward)
        assert torch.equal(one.memory_reset[:rows], other.memory_reset)
        assert torch.equal(one.obs["obs"][:rows], other.obs["obs"])


def test_a_batch_is_not_closed() -> None:
    env = GymVecEnv([Walk] * 3)
    batch = Batch(env)
    made = batch.make(2, CPU, {})
    made.close()
    env.reset([1, 2, 3])
    with pytest.raises(UsageError, match="the batch has 3 environments, not 4"):
        batch.make(4, CPU, {})
    with pytest.raises(UsageError, match=r"env.kwargs: options go with a name, class or function"):
        batch.make(2, CPU, {"kwargs": {}, "id": "x"})


def make_walk() -> Walk:
    return Walk(5)


def test_places_of_classes_and_functions() -> None:
    here = "tests.envs.test_given"
    assert id_of(Walk) == f"{here}:Walk"
    assert id_of(make_walk) == f"{here}:make_walk"
    assert id_of(lambda: Walk()) == "object:test_places_of_classes_and_functions.<locals>.<lambda>"
    assert id_of(partial(Walk, 1)) == "object:partial"
    assert id_of(gym.envs.classic_control.CartPoleEnv).endswith(":CartPoleEnv")


def test_kinds_of_environments() -> None:
    sync = SyncVectorEnv([Walk] * 3)
    copies = given(sync)
    assert isinstance(copies, Copies)
    assert (copies.num_envs, copies.vectorization, copies.env_fns) == (3, "sync", [Walk])
    ours = envs.make("popgym-repeat", num_envs=2)
    for env in (ours, GymnasiumVectorEnv(ours)):
        batch = given(env)
        assert isinstance(batch, Batch)
        assert batch.env is ours
    assert isinstance(given(partial(Walk, 1)), Copies)
    for wrong in (Walk(), 3, None, [Walk]):
        with pytest.raises(UsageError, match=r"env is one Walk|env must be a name, a class"):
            given(wrong)


def test_copies_take_turns() -> None:
    env = Copies(FNS).make(6, CPU, {})
    lengths = torch.zeros(6)
    for t, step in enumerate(play(env, 8), 1):
        lengths = torch.where((lengths == 0) & step.done, t, lengths)
    assert lengths.tolist() == [2, 3, 4, 5, 2, 3]


def test_names() -> None:
    assert named("popgym-repeat") == ("popgym-repeat", {})
    assert named("CartPole-v1") == ("gym", {"id": "CartPole-v1"})
    assert named("./file.py:Walk") == ("gym", {"id": "./file.py:Walk"})
