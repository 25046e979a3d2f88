"""Spaces as torchrl specs, and the tensors' encodings."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("torchrl")

from tensordict import TensorDictBase
from torchrl.envs import InitTracker, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlmem.envs.base import VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.errors import UsageError
from rlmem.torchrl import TorchRLEnv
from rlmem.torchrl.specs import LeafSpec
from tests.envs.toys import EVERY_KIND, Echo
from tests.torchrl.common import (
    ONE_HOT,
    SEED,
    actions,
    echo,
    irregular,
    lockstep,
    replay,
    with_previous_action,
)


@pytest.mark.parametrize("options", [{}, ONE_HOT], ids=["numbers", "one-hot"])
@pytest.mark.parametrize("make", [irregular, lockstep, with_previous_action, echo])
def test_data_are_within_their_specs(make: Callable[[], VecEnv], options: dict[str, Any]) -> None:
    env = TorchRLEnv(make(), **options)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(env, seed=3)
    for _ in range(3):
        assert env.full_action_spec.contains(env.rand_action(env.reset()).select(*env.action_keys))
    data = env.rollout(60, break_when_any_done=False)
    for step in data.unbind(1):
        assert env.observation_spec.contains(step["next"].select(*env.observation_keys))


def test_specs_of_every_kind_of_leaf() -> None:
    env = TorchRLEnv(irregular(), categorical_action_encoding=False)
    assert env.batch_size == torch.Size([4])
    assert {
        key: (type(spec).__name__, spec.dtype) for key, spec in env.observation_spec.items()
    } == {
        "obs.below": ("Categorical", torch.int64),
        "obs.box": ("BoundedContinuous", torch.float32),
        "obs.die": ("Categorical", torch.int64),
        "obs.double": ("BoundedContinuous", torch.float32),
        "obs.image": ("BoundedDiscrete", torch.uint8),
        "obs.nest.0": ("MultiCategorical", torch.int64),
        "obs.nest.1.bit": ("Binary", torch.int64),
        "obs.nest.1.bits": ("Binary", torch.int64),
        "obs.nest.2.0": ("Categorical", torch.int64),
        "obs.scalar": ("BoundedContinuous", torch.float32),
        "obs.unbounded": ("UnboundedContinuous", torch.float32),
    }
    assert env.observation_spec["obs.box"].space.low.eq(-2.0).all()
    assert env.observation_spec["obs.box"].space.high.eq(3.0).all()
    assert env.observation_spec["obs.die"].n == 6
    assert env.action_spec.shape == torch.Size([4, 3])
    assert env.action_spec.dtype == torch.bool
    assert env.reward_spec.shape == torch.Size([4, 1])
    flags = {key: (spec.shape, spec.dtype) for key, spec in env.full_done_spec.items()}
    assert flags == dict.fromkeys(("done", "terminated", "truncated"), ((4, 1), torch.bool))


INF, LARGEST = np.inf, float(np.finfo(np.float32).max)
ACTION_SPACES = {
    "from a bound": spaces.Box(1.0, INF, (3,)),
    "to a bound": spaces.Box(-INF, -2.0, (2, 3)),
    "mixed": spaces.Box(
        np.array([-INF, 0, -INF, -1, -LARGEST, 5], np.float32),
        np.array([INF, INF, 3, 1, LARGEST, 5], np.float32),
    ),
    "widest": spaces.Box(-LARGEST, LARGEST, (2,)),
    "point": spaces.Box(2.5, 2.5, (2,)),
    "unbounded": spaces.Box(-INF, INF, (2,)),
    "scalar": spaces.Box(0.0, INF, ()),
    "half": spaces.Box(-0.1, 0.3, (2,), dtype=np.float16),
    "double": spaces.Box(0.1, INF, (2,), dtype=np.float64),
    "single choice": spaces.Discrete(1, start=-2),
    "matrix": spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[0, 1], [-2, 3]]),
    "bits": spaces.MultiBinary([2, 3]),
    "every kind": EVERY_KIND,
}


@pytest.mark.by_day(3)
@pytest.mark.parametrize("options", [{}, ONE_HOT], ids=["numbers", "one-hot"])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_random_actions_are_legal(name: str, options: dict[str, Any]) -> None:
    # The environment asserts that its space contains each action; `step` checks them, too.
    vec = GymVecEnv([partial(Echo, ACTION_SPACES[name])] * 3)
    env = TorchRLEnv(vec, **options)
    check_env_specs(env)
    for _ in range(50):
        state = env.rand_action(env.reset())
        assert env.full_action_spec.contains(state.select(*env.action_keys))
        env.step(state)
    # Specs are copied by transforms, batched environments and worker processes.
    TransformedEnv(env, InitTracker()).rollout(3)
    spec = env.full_action_spec
    assert spec.contains(spec.clone().rand())
    assert env.full_action_spec_unbatched.contains(env.full_action_spec_unbatched.rand())
    again = pickle.loads(pickle.dumps(spec))
    assert spec.contains(again.rand())
    assert spec.expand(2, *spec.shape).contains(again.rand((2,)))


def test_half_bounded_actions_are_spread_as_in_gymnasium() -> None:
    torch.manual_seed(0)
    env = TorchRLEnv(GymVecEnv([partial(Echo, ACTION_SPACES["mixed"])] * 3))
    drawn = env.action_spec.rand((4000,)).flatten(0, 1)
    mean, std = drawn.mean(0), drawn.std(0)
    torch.testing.assert_close(mean[:4], torch.tensor([0.0, 1.0, 2.0, 0.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(std[:3], torch.ones(3), rtol=0, atol=0.05)
    assert drawn[:, 4].isfinite().all()
    assert (drawn[:, 4].abs() > LARGEST / 2).float().mean() > 0.4
    assert (drawn[:, 5] == 5).all()
    assert env.action_spec.to(torch.float64).rand().dtype == torch.float64


def test_one_hot_and_integer_encodings_agree() -> None:
    taken = actions(with_previous_action(), 60)
    hot = [{"action": torch.nn.functional.one_hot(each["action"], 4).bool()} for each in taken]
    integer = TorchRLEnv(with_previous_action())
    one_hot = TorchRLEnv(with_previous_action(), **ONE_HOT)
    data = []
    for env, encoded in ((integer, taken), (one_hot, hot)):
        env.set_seed(SEED)
        data.append(env.rollout(60, replay(encoded), break_when_any_done=False))
    for key in ("obs", "previous_action", "start"):
        assert torch.equal(data[0]["next", key], data[1]["next", key].long().argmax(-1))
    assert torch.equal(data[0]["next", "reward"], data[1]["next", "reward"])


def test_multi_discrete_leaves_are_concatenated_one_hot_vectors() -> None:
    env = TorchRLEnv(echo(), **ONE_HOT)
    state = env.rand_action(env.reset())
    numbers = torch.tensor([[0, 2, 1, 4], [1, 0, 3, 0]])
    hot = [torch.nn.functional.one_hot(numbers[:, i], n) for i, n in enumerate((2, 3, 4, 5))]
    state["action.nest.0"] = torch.cat(hot, 1).bool()
    step = env.step(state)["next"]
    assert torch.equal(step["obs.nest.0"], state["action.nest.0"])
    assert torch.equal(step["obs.die"], state["action.die"])
    assert torch.equal(step["obs.nest.1.bits"], state["action.nest.1.bits"])


def test_invalid_actions_are_errors() -> None:
    def step(env: TorchRLEnv, action: torch.Tensor) -> TensorDictBase:
        return env.step(env.reset().set("action", action))

    env = TorchRLEnv(lockstep())
    with pytest.raises(ValueError, match=r"'action' is not in Discrete\(4\).*row 2 is 4"):
        step(env, torch.tensor([0, 1, 4, 0]))
    with pytest.raises(ValueError, match=r"Discrete\(4\): expected dtype int64"):
        step(env, torch.rand(4))
    hot = TorchRLEnv(lockstep(), **ONE_HOT)
    with pytest.raises(ValueError, match="not one-hot"):
        step(hot, torch.ones(4, 4, dtype=torch.bool))
    options: dict[str, Any] = {"num_envs": 1, "id": "CartPole-v1", "max_episode_steps": 1}
    short = TorchRLEnv("gym", **options)
    ended = step(short, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UsageError, match="row 0 has ended"):
        short.step(ended)
    unchecked = TorchRLEnv(
        "gym", num_envs=1, id="CartPole-v1", max_episode_steps=1, check_actions=False
    )
    unchecked.step(step(unchecked, torch.zeros(1, dtype=torch.int64)))


@pytest.mark.gpu
def test_random_actions_are_drawn_on_the_device() -> None:
    space = ACTION_SPACES["mixed"]
    spec = LeafSpec(space, 3, torch.device("cpu"), one_hot=False, action=True).spec.to("cuda")
    assert type(spec).__name__ == "HalfBounded"
    drawn = spec.rand()
    assert drawn.is_cuda
    assert all(space.contains(row) for row in drawn.cpu().numpy())


@pytest.mark.gpu
def test_tensors_are_on_the_device() -> None:
    env = TransformedEnv(TorchRLEnv(lockstep(device="cuda"), **ONE_HOT), InitTracker())
    check_env_specs(env, break_when_any_done="both")
    assert env.rollout(60, break_when_any_done=False)["next", "obs"].is_cuda
