"""Control tasks with masked velocities or positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.envs.masked import LAYOUTS, layout
from rlmem.errors import UsageError

CLASSIC = {
    "CartPole-v1": lambda state: (state[[0, 2]], state[[1, 3]]),
    "Pendulum-v1": lambda state: ([np.cos(state[0]), np.sin(state[0])], state[1:]),
    "MountainCar-v0": lambda state: (state[:1], state[1:]),
    "MountainCarContinuous-v0": lambda state: (state[:1], state[1:]),
    "Acrobot-v1": lambda s: (
        [np.cos(s[0]), np.sin(s[0]), np.cos(s[1]), np.sin(s[1])],
        s[2:],
    ),
}
MUJOCO = [
    "Hopper-v5",
    "Walker2d-v5",
    "HalfCheetah-v5",
    "Swimmer-v5",
    "Ant-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Reacher-v5",
    "Pusher-v5",
]


@pytest.fixture
def mujoco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips without the extra; the simulator writes a log file into the working directory."""
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    monkeypatch.chdir(tmp_path)


def play(env: gym.Env, seed: int, steps: int) -> Any:
    """The observation after some random steps."""
    obs, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(steps):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            obs, _ = env.reset()
    return obs


@pytest.mark.parametrize("id", CLASSIC)
def test_layouts_of_the_classic_tasks(id: str) -> None:
    env = gym.make(id)
    obs = play(env, 3, 7)
    positions, velocities = CLASSIC[id](np.asarray(env.unwrapped.state))
    where = layout(env, id)
    np.testing.assert_allclose(obs[list(where.position)], positions, rtol=1e-5)
    np.testing.assert_allclose(obs[list(where.velocity)], velocities, rtol=1e-5)
    assert {*where.position, *where.velocity} == set(range(len(obs)))


@pytest.mark.usefixtures("mujoco")
@pytest.mark.parametrize("id", MUJOCO)
def test_layouts_of_the_mujoco_tasks(id: str) -> None:
    env = gym.make(id)
    obs = play(env, 5, 4)
    data: Any = env.unwrapped.data
    qpos, qvel = data.qpos, data.qvel
    where = layout(env, id)
    positions, velocities = obs[list(where.position)], obs[list(where.velocity)]
    if id.startswith("Humanoid"):
        # Inertias depend on positions, velocities of bodies on those of joints.
        positions, velocities = positions[:22], velocities[:23]
    if id == "Reacher-v5":
        tip = env.unwrapped.get_body_com("fingertip") - env.unwrapped.get_body_com("target")
        expected = [*np.cos(qpos[:2]), *np.sin(qpos[:2]), *tip[:2]]
        qvel = qvel[:2]
    elif id == "Pusher-v5":
        bodies = [env.unwrapped.get_body_com(name) for name in ("tips_arm", "object")]
        expected, qvel = [*qpos[:7], *bodies[0], *bodies[1]], qvel[:7]
    elif id == "InvertedDoublePendulum-v5":
        expected = [qpos[0], *np.sin(qpos[1:]), *np.cos(qpos[1:])]
    else:
        # The horizontal position of the torso is not observed.
        expected = qpos[len(qpos) - len(positions) :]
    np.testing.assert_allclose(positions, expected, atol=1e-9)
    # Hopper and Walker2d clip their observations.
    np.testing.assert_allclose(velocities.clip(-10, 10), np.clip(qvel, -10, 10), atol=1e-9)


@pytest.mark.usefixtures("mujoco")
def test_layouts_follow_options_that_change_observations() -> None:
    kwargs = {"exclude_current_positions_from_observation": False}
    sizes = {}
    for masked in ("none", "velocity", "position"):
        env = envs.make("masked", id="Hopper-v5", num_envs=1, masked=masked, kwargs=kwargs)
        sizes[masked] = env.observation_space["obs"].shape
        env.close()
    assert sizes == {"none": (12,), "velocity": (6,), "position": (6,)}


@pytest.mark.usefixtures("mujoco")
def test_forces_are_not_velocities() -> None:
    for masked, size in (("velocity", 105 - 14), ("position", 105 - 13)):
        env = envs.make("masked", id="Ant-v5", num_envs=1, masked=masked)
        assert env.observation_space["obs"].shape == (size,)
        env.close()


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
@pytest.mark.parametrize("masked", ["velocity", "position"])
def test_only_masked_entries_are_missing(id: str, masked: str) -> None:
    full = envs.make("gym", id=id, num_envs=3)
    part = envs.make("masked", id=id, num_envs=3, masked=masked)
    seen = list(getattr(LAYOUTS[id], "position" if masked == "velocity" else "velocity"))
    space = part.observation_space["obs"]
    assert space == gym.spaces.Box(
        full.observation_space["obs"].low[seen], full.observation_space["obs"].high[seen]
    )
    full.action_space["action"].seed(0)
    assert torch.equal(full.reset(4)["obs"][:, seen], part.reset(4)["obs"])
    ends = 0
    for _ in range(60):
        action = np.stack([full.action_space["action"].sample() for _ in range(3)])
        a, b = (env.step({"action": torch.from_numpy(action)}) for env in (full, part))
        assert torch.equal(a.obs["obs"][:, seen], b.obs["obs"])
        assert torch.equal(a.final_obs["obs"][:, seen], b.final_obs["obs"])
        assert torch.equal(a.reward, b.reward)
        ends += int(b.terminated.sum())
    assert (ends > 0) == (id == "CartPole-v1")


def test_masked_none_and_previous_action() -> None:
    env = envs.make("masked", id="CartPole-v1", num_envs=2, masked="none", previous_action=True)
    assert env.observation_space["obs"].shape == (4,)
    assert set(env.reset(0)) == {"obs", "previous_action", "start"}
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "CartPole-v1", "masked": "velocities"}, "unknown masked 'velocities'; did you"),
        ({"id": "CarPole-v1"}, "unknown Gymnasium id 'CarPole-v1'"),
        (
            {"id": "FrozenLake-v1"},
            "the observation layout of 'FrozenLake-v1' is unknown .known: Cart",
        ),
        (
            {"id": "CartPole-v1", "max_episode_steps": 0},
            "max_episode_steps must be an integer of at least 1",
        ),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        envs.make("masked", num_envs=1, **options)


@pytest.mark.parametrize("name", ["masked", "gym"])
def test_a_missing_simulator_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"Hopper-v5 needs mujoco: pip install 'rlmem\[mujoco\]'"):
        envs.make(name, id="Hopper-v5", num_envs=1)
