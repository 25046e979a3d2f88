"""Batches of Gymnasium environments equal the single ones, for both vectorizations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem import envs
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.errors import UsageError
from tests.envs.toys import EVERY_KIND, Shows

SHOWN = spaces.Dict({**EVERY_KIND.spaces, "image": spaces.Box(0, 255, (6, 5, 3), dtype=np.uint8)})
BUFFER = spaces.Box(-1, 1, (3,))
SEEDS = [11, 5, 8]


def shown() -> gym.Env:
    return Shows(SHOWN)


def reusing() -> gym.Env:
    return Shows(BUFFER, reuse=True)


def flat(name: str, space: gym.Space, sample: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of one sample, by an independent implementation."""
    if isinstance(space, spaces.Dict):
        for key in space:
            yield from flat(f"{name}.{key}", space[key], sample[key])
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space):
            yield from flat(f"{name}.{i}", part, sample[i])
    elif isinstance(space, spaces.Box):
        kind = np.uint8 if space.dtype == np.uint8 else np.float32
        yield name, np.array(sample, dtype=kind)
    else:
        start = getattr(space, "start", 0)
        value = np.array(sample, dtype=np.int64) - start
        yield name, value.flatten() if value.ndim else value


def assert_row(obs: Tensors, row: int, expected: dict[str, np.ndarray]) -> None:
    assert obs.keys() == expected.keys()
    for key, value in expected.items():
        got = obs[key][row].numpy()
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value, err_msg=key)


def assert_equal(a: Transition, b: Transition) -> None:
    torch.testing.assert_close(a._asdict(), b._asdict(), rtol=0, atol=0)


def play_alone(make: Callable[[], gym.Env], env: VecEnv, steps: int, seeds: list[int]) -> int:
    """Compare `env` with single environments step by step; returns the number of episodes."""
    alone = [make() for _ in seeds]
    space = alone[0].observation_space
    action_space = alone[0].action_space
    assert isinstance(action_space, spaces.Discrete)
    obs = env.reset(seeds)
    for i, seed in enumerate(seeds):
        assert_row(obs, i, dict(flat("obs", space, alone[i].reset(seed=seed)[0])))
    ended = 0
    for _ in range(steps):
        action = torch.randint(0, int(action_space.n), (len(seeds),))
        step = env.step({"action": action})
        for i, single in enumerate(alone):
            sample, reward, terminated, truncated, _ = single.step(
                action[i].numpy() + action_space.start
            )
            assert step.terminated[i] == terminated
            assert step.truncated[i] == truncated
            assert step.reward[i] == np.float32(reward)
            assert_row(step.final_obs, i, dict(flat("obs", space, sample)))
            if terminated or truncated:
                ended += 1
                sample, _ = single.reset()
            assert_row(step.obs, i, dict(flat("obs", space, sample)))
    return ended


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("make", [shown, reusing])
def test_a_batch_equals_the_single_environments(
    make: Callable[[], gym.Env], vectorization: str
) -> None:
    env = GymVecEnv([make] * 3, vectorization)
    assert play_alone(make, env, 60, SEEDS) > 20
    env.close()


def test_transitions_have_the_dtypes_of_the_protocol() -> None:
    env = GymVecEnv([shown] * 2)
    env.reset()
    step = env.step({"action": torch.tensor([0, 2])})
    assert step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert isinstance(env, VecEnv)


def test_seeds() -> None:
    def stream(seed: int | list[int] | None) -> list[Transition]:
        env.reset(seed)
        return [env.step({"action": torch.tensor([t % 3] * 3)}) for t in range(30)]

    env = GymVecEnv([shown] * 3)
    first, again = stream([4, 5, 6]), stream(4)
    for a, b in zip(first, again, strict=True):
        assert_equal(a, b)
    other = stream([4, 5, 7])
    for a, b in zip(first, other, strict=True):
        assert torch.equal(a.reward[:2], b.reward[:2])
        assert not torch.equal(a.reward[2], b.reward[2])
    unseeded = stream(None)
    assert not torch.equal(unseeded[0].reward, first[0].reward)


def test_returned_tensors_are_not_overwritten() -> None:
    env = GymVecEnv([reusing] * 2)
    kept = [env.reset(0)]
    copies = [{k: v.clone() for k, v in kept[0].items()}]
    for t in range(20):
        step = env.step({"action": torch.tensor([t % 3, 1])})
        kept += [step.obs, step.final_obs]
        copies += [{k: v.clone() for k, v in obs.items()} for obs in kept[-2:]]
    env.reset(1)
    torch.testing.assert_close(kept, copies, rtol=0, atol=0)


def test_a_time_limit_truncates_and_a_fall_terminates() -> None:
    env = envs.make("gym", id="CartPole-v1", num_envs=2, max_episode_steps=5)
    env.reset(0)
    ends = [env.step({"action": torch.tensor([0, 1])}) for _ in range(10)]
    assert [step.truncated.tolist() for step in ends] == ([[False] * 2] * 4 + [[True] * 2]) * 2
    assert not any(step.terminated.any() for step in ends)

    env = envs.make("gym", id="CartPole-v1", num_envs=2)
    env.reset(0)
    falls = [env.step({"action": torch.tensor([0, 1])}) for _ in range(30)]
    assert sum(step.terminated.sum() for step in falls) >= 4
    assert not any(step.truncated.any() for step in falls)
    for step in falls:
        angle = step.final_obs["obs"][:, 2].abs()
        assert torch.equal(angle > 12 * np.pi / 180, step.terminated)
        assert (step.obs["obs"][step.terminated].abs() <= 0.05).all()


def test_pendulum_has_its_own_time_limit_and_bounds() -> None:
    env = envs.make("gym", id="Pendulum-v1", num_envs=2, kwargs={"g": 0.0})
    assert env.action_space == {"action": spaces.Box(-2.0, 2.0, (1,))}
    env.reset(0)
    for t in range(200):
        step = env.step({"action": torch.zeros(2, 1)})
        assert step.truncated.tolist() == [t == 199] * 2
        assert not step.terminated.any()
    # Without gravity and torque the velocity is constant, and differs in the next episode.
    assert not torch.equal(step.final_obs["obs"], step.obs["obs"])
    with pytest.raises(ValueError, match=r"Box\(-2\.0, 2\.0, \(1,\), float32\).*row 1 is \[2\.5"):
        env.step({"action": torch.tensor([[0.0], [2.5]])})


def test_final_observation_without_an_end_is_the_observation() -> None:
    env = envs.make("gym", id="CartPole-v1", num_envs=2)
    env.reset(0)
    step = env.step({"action": torch.tensor([0, 1])})
    assert not (step.terminated | step.truncated).any()
    assert torch.equal(step.obs["obs"], step.final_obs["obs"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_work_after_an_invalid_action(vectorization: str) -> None:
    env = GymVecEnv([shown] * 2, vectorization)
    with pytest.raises(ValueError, match="step before reset"):
        env.step({"action": torch.tensor([0, 0])})
    first = env.reset(3)
    with pytest.raises(ValueError, match=r"Discrete\(3, start=-1\)"):
        env.step({"action": torch.tensor([0, 3])})
    torch.testing.assert_close(env.reset(3), first, rtol=0, atol=0)
    env.close()
    env.close()


class Breaks(Shows):
    """Raises an error in its first step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        raise RuntimeError("the simulator has broken")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_errors_of_environments_are_raised(
    vectorization: str, capfd: pytest.CaptureFixture[str]
) -> None:
    env = GymVecEnv([partial(Breaks, BUFFER)] * 2, vectorization)
    env.reset(0)
    with pytest.raises(RuntimeError, match="the simulator has broken") as error:
        env.step({"action": torch.tensor([0, 0])})
    assert error.value.__notes__[0].startswith("in environment 0")
    env.close()
    # Nothing is printed by the processes: the traceback is a note of the error.
    assert capfd.readouterr().err == ""


class Unpicklable(Exception):
    """Its constructor takes two arguments, so that it cannot be read in another process."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


class BreaksAtReset(Shows):
    """Raises an error in its first reset."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        raise Unpicklable(7, "no license")


def test_errors_that_cannot_be_sent_between_processes_keep_their_text() -> None:
    env = GymVecEnv([partial(BreaksAtReset, BUFFER)] * 2, "async")
    with pytest.raises(RuntimeError, match=r"^Unpicklable: no license \(7\)\n"):
        env.reset(0)
    env.close()


class Pid(Shows):
    """The observation is the id of the process."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(2**31))

    def _observe(self) -> int:
        return os.getpid()


def test_only_the_main_process_handles_ctrl_c() -> None:
    env = GymVecEnv([Pid] * 2, "async")
    pids = env.reset(0)["obs"].tolist()
    assert len({*pids, os.getpid()}) == 3
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert env.step({"action": torch.tensor([0, 0])}).obs["obs"].tolist() == pids
    env.close()


def test_a_dead_process_is_named() -> None:
    env = GymVecEnv([Pid] * 3, "async")
    pids = env.reset(0)["obs"].tolist()
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"process of environment 1 died \(exit code -9\)"):
        env.step({"action": torch.tensor([0, 0, 0])})
    env.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "CartPol-v1"}, r"unknown Gymnasium id 'CartPol-v1'; did you mean CartPole-v1"),
        (
            {"id": "no_such_module:Env-v0"},
            "unknown Gymnasium id 'no_such_module:Env-v0': cannot import 'no_such_module'",
        ),
        ({"id": "%%"}, "unknown Gymnasium id '%%'"),
        ({"id": "CartPole-v1", "num_envs": 0}, "num_envs must be .* at least 1, not 0"),
        ({"id": "CartPole-v1", "num_envs": -4}, "num_envs must be .* at least 1, not -4"),
        ({"id": "CartPole-v1", "max_episode_steps": 0}, "max_episode_steps .* not 0"),
        ({"id": "CartPole-v1", "vectorization": "synch"}, "did you mean sync"),
        (
            {"id": "CartPole-v1", "kwargs": {"render_moed": 1}},
            "unknown option of 'CartPole-v1': 'render_moed'; did you mean render_mode",
        ),
        ({"id": "CartPole-v1", "max_steps": 5}, "unknown option .* did you mean max_episode_steps"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        envs.make("gym", **{"num_envs": 2, **options})
    assert "\n" not in str(error.value)


def test_a_wrong_number_of_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        GymVecEnv([shown] * 2).reset([1, 2, 3])


def test_listing_names_imports_neither_popgym_nor_matplotlib() -> None:
    program = (
        "import sys; from rlmem import envs; envs.names();"
        "print([m for m in ('popgym', 'matplotlib', 'hydra', 'torchrl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_tensors_are_on_the_device() -> None:
    cpu = GymVecEnv([shown] * 3)
    gpu = GymVecEnv([shown] * 3, device="cuda")
    for here, there in zip(cpu.reset(0).values(), gpu.reset(0).values(), strict=True):
        assert torch.equal(here, there.cpu())
    for _ in range(20):
        action = torch.randint(0, 3, (3,))
        on_gpu = gpu.step({"action": action.cuda()})
        assert {leaf.device.type for leaf in on_gpu.final_obs.values()} == {"cuda"}
        back = Transition(
            {k: v.cpu() for k, v in on_gpu.obs.items()},
            on_gpu.reward.cpu(),
            on_gpu.terminated.cpu(),
            on_gpu.truncated.cpu(),
            {k: v.cpu() for k, v in on_gpu.final_obs.items()},
            on_gpu.memory_reset.cpu(),
        )
        assert_equal(cpu.step({"action": action}), back)
