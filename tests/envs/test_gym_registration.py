"""Environments of rlmem in Gymnasium's registry, and its wrappers around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorObservationWrapper
from gymnasium.wrappers import vector as wrappers

import rlmem.gym  # noqa: F401 (registers environments)
from rlmem import envs
from rlmem.envs.gym_vector import GymnasiumVectorEnv
from rlmem.errors import UsageError

REFUSING = {
    *("DtypeObservation", "FilterObservation", "FlattenObservation", "GrayscaleObservation"),
    *("NormalizeObservation", "RescaleObservation", "ReshapeObservation", "ResizeObservation"),
    *("TransformObservation", "VectorizeTransformObservation"),
}
WORKING: dict[str, dict[str, Any]] = {
    "ClipAction": {},
    "ClipReward": {"min_reward": -1.0, "max_reward": 1.0},
    "DictInfoToList": {},
    "NormalizeReward": {},
    "RecordEpisodeStatistics": {},
    "RescaleAction": {"min_action": np.float32(-1), "max_action": np.float32(1)},
    "TransformAction": {"func": lambda action: action},
    "TransformReward": {"func": lambda reward: reward},
    "VectorizeTransformAction": {"wrapper": gym.wrappers.ClipAction},
    "VectorizeTransformReward": {"wrapper": gym.wrappers.ClipReward, "max_reward": 0.0},
}


def test_environments_are_registered_in_gymnasium() -> None:
    made = gym.make_vec("rlmem/popgym-repeat", num_envs=5, difficulty="medium")
    bare = envs.make("popgym-repeat", num_envs=5, difficulty="medium")
    assert made.spec is not None
    assert made.spec.id == "rlmem/popgym-repeat"
    assert torch.equal(torch.from_numpy(made.reset(seed=4)[0]), bare.reset(4)["obs"])
    assert gym.make_vec(made.spec).num_envs == 5
    assert gym.make_vec("rlmem.gym:rlmem/popgym-repeat", num_envs=2).num_envs == 2
    ours = {name for name in gym.registry if name.startswith("rlmem/")}
    assert ours == {f"rlmem/{name}" for name in envs.names()}
    with pytest.raises(UsageError, match="did you mean difficulty"):
        gym.make_vec("rlmem/popgym-repeat", dificulty="hard")


@pytest.mark.parametrize("make", [gym.make, partial(gym.make_vec, vectorization_mode="sync")])
def test_a_single_environment_is_refused(make: Callable[[str], object]) -> None:
    with pytest.raises(
        gym.error.Error, match=r"use gymnasium\.make_vec\('rlmem/copy', num_envs=1\)"
    ):
        make("rlmem/copy")


@pytest.mark.parametrize("name", ["gym", "masked"])
def test_gymnasiums_own_id_does_not_hide_the_option(name: str) -> None:
    made = gym.make_vec(f"rlmem/{name}", num_envs=2, env_id="Pendulum-v1", kwargs={"g": 0.0})
    bare = envs.make(name, num_envs=2, id="Pendulum-v1", kwargs={"g": 0.0})
    first, action = made.reset(seed=3)[0], np.zeros((2, 1), np.float32)
    assert torch.equal(torch.from_numpy(first), bare.reset(3)["obs"])
    _, reward, *_ = made.step(action)
    expected = bare.step({"action": torch.from_numpy(action)}).reward
    np.testing.assert_array_equal(reward.astype(np.float32), expected.numpy())
    assert gym.make_vec(made.spec).single_observation_space == made.single_observation_space
    # The default is that of the YAML file.
    space = gym.make_vec(f"rlmem/{name}", num_envs=2).single_observation_space
    assert space == gym.make_vec(f"rlmem/{name}", env_id="CartPole-v1").single_observation_space
    with pytest.raises(UsageError, match="the option env_id of env 'copy' is unknown"):
        gym.make_vec("rlmem/copy", env_id="Pendulum-v1")
    with pytest.raises(UsageError, match="is given twice, as id and as env_id"):
        GymnasiumVectorEnv(name, num_envs=1, id="CartPole-v1", env_id="CartPole-v1")


def test_which_wrappers_of_gymnasium_refuse_same_step_resets() -> None:
    defined = vars(wrappers)
    refusing = {
        name
        for name, each in defined.items()
        if isinstance(each, type) and issubclass(each, VectorObservationWrapper)
    }
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    assert refusing == REFUSING
    assert all(f"`{name}`" in guide for name in refusing)
    # These need a `render`, or the package jax or array_api_compat.
    assert {*wrappers.__all__} - refusing - {*WORKING} == {
        *("HumanRendering", "RecordVideo"),
        *("ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch"),
    }
    with pytest.raises(ValueError, match="autoreset_mode"):
        wrappers.NormalizeObservation(gym.make_vec("rlmem/masked", num_envs=2))


@pytest.mark.parametrize("name", WORKING)
def test_other_wrappers_of_gymnasium_work(name: str) -> None:
    options = {"num_envs": 2, "env_id": "Pendulum-v1", "max_episode_steps": 3}
    env = getattr(wrappers, name)(gym.make_vec("rlmem/gym", **options), **WORKING[name])
    env.reset(seed=0)
    for t in range(1, 8):
        *_, truncated, _ = env.step(env.action_space.sample())
        assert truncated.tolist() == [t % 3 == 0] * 2
