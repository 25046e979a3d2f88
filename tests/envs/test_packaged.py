"""Trials in simulators of packages: equal steps, disjoint splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.envs import gym_env
from rlmem.envs.meta.packaged import Packaged, evenly
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError

CHEETAH, SUITE, WORLD = "meta-half-cheetah-vel", "meta-dmc-projection", "meta-metaworld"
MODULES = {CHEETAH: "mujoco", SUITE: "dm_control", WORLD: "metaworld"}
EXTRAS = {CHEETAH: "mujoco", SUITE: "dmc", WORLD: "metaworld"}
PACKAGES = sorted(MODULES)
FEW: dict[str, dict[str, Any]] = {
    SUITE: {"families": ["cartpole-swingup", "reacher-easy"], "heldout_families": ["finger-spin"]}
}


def make(name: str, num_envs: int = 2, **options: Any) -> Any:
    """With short trials; skips if the package is missing."""
    pytest.importorskip(MODULES[name])
    given = {"episodes": 2, "length": 5, **FEW.get(name, {}), **options}
    trials = envs.make(name, num_envs=num_envs, **given)
    assert isinstance(trials, Trials)
    assert isinstance(trials.env, Packaged)
    return trials


def play(trials: Any, seed: Any, steps: int = 25) -> list[dict[str, Any]]:
    """All results of steps with random actions, and the hidden tasks."""
    seen = [dict(trials.reset(seed))]
    generator = np.random.default_rng(0)
    size = trials.action_space["action"].shape[0]
    for _ in range(steps):
        # The actions of environment i do not depend on the other environments.
        action = generator.uniform(-1, 1, (8, size))[: trials.num_envs].astype(np.float32)
        step = trials.step({"action": torch.from_numpy(action)})
        tasks = [(int(env.id), *env.task.values()) for env in trials.env.envs.envs]
        seen.append({**step.obs, "reward": step.reward, "start": step.memory_reset, "tasks": tasks})
    trials.close()
    return seen


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]], rows: int) -> None:
    for a, b in zip(one, other, strict=True):
        for key in a:
            for x, y in zip(a[key][:rows], b[key][:rows], strict=True):
                assert x == y if key == "tasks" else torch.equal(x, y), key


@pytest.mark.parametrize("name", PACKAGES)
def test_trials_depend_on_seeds_only(name: str) -> None:
    first = play(make(name), 3)
    assert_same(first, play(make(name), 3), rows=2)
    assert_same(first, play(make(name, 1), [3]), rows=1)
    tasks = [tuple(step["tasks"][0]) for step in first[1:]]
    # Trials have two episodes of five steps: tasks change at steps 10 and 20.
    assert tasks[:9] == tasks[:1] * 9
    assert tasks[9:19] == tasks[9:10] * 10
    assert len(set(tasks)) == 3
    assert [bool(step["start"][0]) for step in first[1:]] == [t % 10 == 9 for t in range(25)]


@pytest.mark.parametrize("name", PACKAGES)
def test_held_out_tasks_are_not_training_tasks(name: str) -> None:
    trials = make(name)
    splits = trials.env.splits
    drawn = {}
    for split in splits.names():
        env = make(name, 1, split=split).env.envs.envs[0]
        found = []
        env.env.set_task = lambda task, draws, found=found: found.append(task)
        env.env.reset = lambda seed: (np.zeros(1), {})
        for seed in range(300):
            env.reset(seed=seed)
            found[-1] = {"id": int(env.id), **found[-1]}
        drawn[split] = found
        assert {task["id"] % 2 for task in found} == {split != "train"}
    for split in splits.names()[1:]:
        for key, domain in splits[split].items():
            if domain is not splits["train"][key]:
                train = {task[key] for task in drawn["train"]}
                assert train.isdisjoint(task[key] for task in drawn[split])
                assert len(train) > 1
    counts = {CHEETAH: (100, 20), WORLD: (50, 50)}
    if name in counts:
        key = next(iter(splits["train"]))
        sizes = [len(splits[split][key].values) for split in ("train", "heldout")]
        assert tuple(sizes) == counts[name]


def test_a_step_of_the_cheetah_equals_that_of_the_package() -> None:
    trials = make(CHEETAH, 1, length=20)
    original: Any = gym_env.registered("HalfCheetah-v5", None, {})()
    trials.reset(0)
    simulator = trials.env.envs.envs[0].env
    original.reset(seed=0)
    inner = simulator.env.unwrapped
    original.unwrapped.set_state(inner.data.qpos.copy(), inner.data.qvel.copy())
    for t in range(10):
        action = np.sin(np.arange(6) + t).astype(np.float32)
        step = trials.step({"action": torch.from_numpy(action)[None]})
        obs, _, _, _, info = original.step(action)
        np.testing.assert_allclose(step.obs["obs"][0], obs, rtol=1e-4, atol=1e-4)
        cost = 0.05 * float(np.square(action).sum())
        expected = -abs(info["x_velocity"] - simulator.goal) - cost
        assert step.reward.item() == pytest.approx(expected, abs=1e-4)
    trials.close()
    original.close()


def test_observations_of_the_suite_are_projected() -> None:
    trials = make(SUITE, 1, length=50, episodes=1)
    first = trials.reset(0)["obs"][0]
    env = trials.env.envs.envs[0].env
    seen = np.concatenate(
        [np.ravel(leaf) for leaf in env.env.task.get_observation(env.env.physics).values()]
    )
    size = len(seen)
    np.testing.assert_allclose(env.sight.T @ env.sight, 2 * np.eye(size), atol=1e-5)
    np.testing.assert_allclose(first, env.sight @ seen, rtol=1e-4, atol=1e-4)
    action = np.full(2, 0.3, np.float32)
    step = trials.step({"action": torch.from_numpy(action)[None]})
    control = np.clip(action @ env.grip, -1, 1)
    np.testing.assert_allclose(env.env.physics.data.ctrl, control, rtol=1e-5)
    reward = env.env.task.get_reward(env.env.physics)
    assert step.reward.item() == pytest.approx(reward / 50, abs=1e-6)
    trials.close()


def test_goals_of_metaworld_are_hidden_and_fixed_in_a_trial() -> None:
    trials = make(WORLD, 1, length=3)
    first = trials.reset(0)["obs"][0]
    env = trials.env.envs.envs[0].env
    goals = []
    for _ in range(9):
        goals.append(tuple(env.env._target_pos))
        step = trials.step({"action": torch.ones(1, 4)})
        assert (step.obs["obs"][0, -3:] == 0).all()
        assert 0 <= step.reward.item() <= 10
    assert (first[-3:] == 0).all()
    assert goals[:6] == goals[:1] * 6
    assert goals[6] != goals[0]
    trials.close()


@pytest.mark.parametrize("name", PACKAGES)
def test_invalid_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="length"):
        make(name, length=0)
    with pytest.raises(UsageError, match="split"):
        make(name, split="hedlout")
    wrong = {
        CHEETAH: ({"slowest": 4.0}, "less than fastest"),
        SUITE: ({"families": ["cartpole-balence"]}, "did you mean cartpole-balance"),
        WORLD: ({"task": "reach-v9"}, "did you mean reach-v3"),
    }
    options, message = wrong[name]
    with pytest.raises(UsageError, match=message):
        make(name, **options)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UsageError, match=rf"pip install 'rlmem\[{EXTRAS[name]}\]'"):
        envs.make(name, num_envs=1)


def test_numbers_are_uniform_and_distinct() -> None:
    numbers = evenly(1000, 1.0, 3.0, seed=1)
    assert len(set(numbers)) == 1000
    assert 1 <= min(numbers) < 1.02
    assert 2.98 < max(numbers) < 3
    assert numbers[:5] == evenly(5, 1.0, 3.0, seed=1)
    assert numbers[:5] != evenly(5, 1.0, 3.0, seed=2)
