"""The adapter to Gymnasium equals Gymnasium's own vector environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from rlmem import envs
from rlmem.envs.adapters import Nesting
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.gym_vector import GymnasiumVectorEnv
from rlmem.errors import UsageError
from tests.envs.toys import Echo, Shows

# Spaces whose tensor form is the space itself: from 0, one-dimensional, float32.
PLAIN = spaces.Dict(
    {
        "box": spaces.Box(-2.0, 3.0, (2, 3)),
        "die": spaces.Discrete(6),
        "image": spaces.Box(0, 255, (4, 3), dtype=np.uint8),
        "nest": spaces.Tuple(
            (
                spaces.MultiDiscrete([2, 3]),
                spaces.Dict(
                    {"bits": spaces.MultiBinary(3), "unbounded": spaces.Box(-np.inf, np.inf)}
                ),
                spaces.Tuple((spaces.Discrete(2),)),
            )
        ),
    }
)
ACTIONS = spaces.Dict({key: PLAIN[key] for key in ("box", "die", "nest")})


class Plain(Shows):
    action_space = spaces.Discrete(3)


def plain(space: gym.Space = PLAIN) -> gym.Env:
    return Plain(space)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b) or {type(a), type(b)} <= {int, np.int64}
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("space", [PLAIN, PLAIN["box"], PLAIN["die"]], ids=["nested", "box", "die"])
def test_it_equals_gymnasiums_own_vector_environment(space: gym.Space) -> None:
    make = partial(plain, space)
    ours = GymnasiumVectorEnv(GymVecEnv([make] * 3))
    theirs = SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    for name in ("observation_space", "action_space"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, "single_" + name) == getattr(theirs, "single_" + name)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    ended = 0
    for seed in (5, [8, 1, 4], None):
        assert_same(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for t in range(40):
            actions = np.array([t % 3, 1, 2])
            obs, reward, *flags, infos = ours.step(actions)
            expected, expected_reward, *expected_flags, expected_infos = theirs.step(actions)
            assert ours.observation_space.contains(obs)
            assert_same(obs, expected)
            assert_same(tuple(flags), tuple(expected_flags))
            assert reward.dtype == np.float64
            np.testing.assert_array_equal(reward, np.float32(expected_reward))
            assert ("final_obs" in infos) == ("final_obs" in expected_infos)
            if "final_obs" in infos:
                for key in ("final_obs", "_final_obs", "_final_info"):
                    assert_same(infos[key], expected_infos[key])
                assert infos["final_info"] == {}
                ended += int(infos["_final_obs"].sum())
    assert ended > 60


def test_actions_of_every_kind_are_passed_on() -> None:
    env = GymnasiumVectorEnv(GymVecEnv([partial(Echo, ACTIONS)] * 3))
    assert env.single_action_space == ACTIONS
    assert env.action_space == batch_space(ACTIONS, 3)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        actions = env.action_space.sample()
        assert_same(env.step(actions)[0], actions)
    single = list(iterate(env.action_space, actions))
    again = concatenate(ACTIONS, single, create_empty_array(ACTIONS, 3))
    assert_same(env.step(again)[0], actions)


def test_the_previous_action_is_an_entry_of_a_dict() -> None:
    make = partial(plain, PLAIN["nest"])
    bare = GymVecEnv([make] * 2)
    assert GymnasiumVectorEnv(bare).single_observation_space == PLAIN["nest"]
    env = GymnasiumVectorEnv(envs.make("popgym-repeat", num_envs=2, previous_action=True))
    four = spaces.Discrete(4)
    assert env.single_observation_space == spaces.Dict(
        {"obs": four, "previous_action": four, "start": spaces.Discrete(2)}
    )
    assert env.reset()[0]["start"].tolist() == [1, 1]
    obs = env.step(np.array([3, 1]))[0]
    assert obs["start"].tolist() == [0, 0]
    assert obs["previous_action"].tolist() == [3, 1]


def test_leaves_are_nested_by_the_dots_in_their_names() -> None:
    two, three = spaces.Discrete(2), spaces.Discrete(3)

    def nested(*names: str) -> gym.Space:
        return Nesting(dict.fromkeys(names, two)).space

    assert nested("obs") == two
    assert nested("obs.0", "obs.1") == spaces.Tuple((two, two))
    assert nested("obs.1", "obs.2") == spaces.Dict({"1": two, "2": two})
    assert nested("obs.a.b", "obs.a.c") == spaces.Dict({"a": spaces.Dict({"b": two, "c": two})})
    assert nested("obs.0", "start") == spaces.Dict({"obs": spaces.Tuple((two,)), "start": two})
    assert nested(*(f"obs.{i}" for i in range(11))) == spaces.Tuple((two,) * 11)
    eleven = {f"obs.{i}": spaces.Discrete(i + 1) for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert [part.n for part in Nesting(eleven).space] == list(range(1, 12))
    for names in (("obs.a", "obs.a.b"), ("obs.a.b", "obs.a")):
        with pytest.raises(UsageError, match="inside"):
            nested(*names)
    assert Nesting({"obs.0": two, "obs.1": three}).nest({"obs.0": 5, "obs.1": 6}) == (5, 6)


def test_scalars_of_final_observations_are_arrays() -> None:
    space = spaces.Dict(box=spaces.Box(-1.0, 1.0, ()), die=spaces.Discrete(3))
    for make, key in ((partial(plain, space), "box"), (partial(plain, space["box"]), None)):
        env = GymnasiumVectorEnv(GymVecEnv([make] * 3))
        env.reset(seed=0)
        finals = []
        for _ in range(20):
            infos = env.step(np.array([0, 1, 2]))[-1]
            finals += [last for last in infos.get("final_obs", ()) if last is not None]
        assert len(finals) > 5
        for last in finals:
            assert env.single_observation_space.contains(last)
            leaf = last if key is None else last[key]
            assert type(leaf) is np.ndarray
            assert leaf.shape == ()


def test_gymnasiums_wrapper_records_our_episodes() -> None:
    env = RecordEpisodeStatistics(GymnasiumVectorEnv(GymVecEnv([plain] * 4)))
    env.reset(seed=3)
    total, length, counted = np.zeros(4), np.zeros(4, int), 0
    for _ in range(60):
        _, reward, terminated, truncated, infos = env.step(np.array([0, 1, 2, 1]))
        total, length = total + reward, length + 1
        done = terminated | truncated
        if done.any():
            np.testing.assert_array_equal(infos["_episode"], done)
            np.testing.assert_allclose(infos["episode"]["r"][done], total[done])
            np.testing.assert_array_equal(infos["episode"]["l"][done], length[done])
        counted += int(done.sum())
        total, length = np.where(done, 0.0, total), np.where(done, 0, length)
    assert counted > 40
    assert env.episode_count == counted


def test_returned_arrays_may_be_changed() -> None:
    def played(spoil: bool) -> list[np.ndarray]:
        env = GymnasiumVectorEnv("popgym-repeat", num_envs=3, previous_action=True)
        obs, _ = env.reset(seed=1)
        kept = []
        for t in range(60):
            actions = np.array([t % 4, 1, 2])
            obs, reward, terminated, truncated, infos = env.step(actions)
            kept += [leaf.copy() for leaf in (*obs.values(), reward, terminated, truncated)]
            kept += [np.array(list(last.values())) for last in infos.get("final_obs", [])]
            if spoil:
                for array in (*obs.values(), reward, terminated, truncated, actions):
                    array[...] = 1
        return kept

    for a, b in zip(played(True), played(False), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(4), [0, 4], r"'action' is not in Discrete\(4\): .*row 1 is 4"),
        (spaces.Discrete(4), [-1, 0], r"Discrete\(4\): expected values in range: row 0 is -1"),
        (spaces.Discrete(4), [0.0, 1.0], r"Discrete\(4\): expected dtype int64, not torch.float64"),
        (spaces.Discrete(4), [0], r"expected shape \[2\], not \[1\]"),
        (spaces.Box(-1, 1, (1,)), [[0.0], [np.nan]], r"Box\(-1.0, 1.0.*row 1 is \[nan\]"),
        (ACTIONS, {"box": np.zeros((2, 2, 3))}, "are not in Dict"),
        (ACTIONS["nest"], [0, 1], "are not in Tuple"),
    ],
)
def test_invalid_actions_name_the_space(space: gym.Space, actions: Any, message: str) -> None:
    env = GymnasiumVectorEnv(GymVecEnv([partial(Echo, space)] * 2))
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_values_are_checked_with_check_actions_only() -> None:
    wrong = np.array([4, 0])
    env = GymnasiumVectorEnv("popgym-repeat", num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match="row 0 is 4"):
        env.step(wrong)
    env = GymnasiumVectorEnv("popgym-repeat", num_envs=2, check_actions=False)
    env.reset()
    env.step(wrong)


def test_invalid_arguments_are_refused() -> None:
    env = GymnasiumVectorEnv("popgym-repeat", num_envs=2)
    env.reset(options={"reset_mask": np.array([True, True])})
    with pytest.raises(UsageError, match="reset_mask must be True everywhere"):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(UsageError, match="seeds must be integers"):
        env.reset(seed=[1, None])
    with pytest.raises(ValueError, match="1 seeds for 2 environments"):
        env.reset(seed=[1])


def test_seeds_are_passed_on() -> None:
    env, bare = (
        GymnasiumVectorEnv("popgym-repeat", num_envs=3),
        envs.make("popgym-repeat", num_envs=3),
    )
    seeds: list[Any] = [7, np.int64(7), [7, 8, 9], np.array([7, 8, 9])]
    first = bare.reset(7)["obs"].numpy()
    for seed in seeds:
        np.testing.assert_array_equal(env.reset(seed=seed)[0], first)
    assert env.np_random_seed == 7


def test_close_is_passed_on() -> None:
    closed: list[int] = []

    class Closes(GymVecEnv):
        def close(self) -> None:
            closed.append(1)

    make: Callable[[], gym.Env] = plain
    env = GymnasiumVectorEnv(Closes([make] * 2))
    env.close()
    env.close()
    assert closed == [1]
