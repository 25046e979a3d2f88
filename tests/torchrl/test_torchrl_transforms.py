"""The transforms and samplers that docs/torchrl.md lists as tested with `MemoryModule`.

Recurrent mode, on rows from the middle of episodes, yields the outputs of the rollout.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSliceSampler,
    SliceSampler,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.data.replay_buffers.samplers import Sampler, SliceSamplerWithoutReplacement
from torchrl.envs import transforms as T
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MaskedCategorical, set_recurrent_mode

from rlmem.envs.gym_env import GymVecEnv
from rlmem.errors import UsageError
from rlmem.torchrl import MemoryModule, TorchRLEnv

PAGE = (Path(__file__).parents[2] / "docs" / "torchrl.md").read_text()
OBS: dict[str, Any] = {"in_keys": ["obs"]}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

ENV_TRANSFORMS: dict[str, Callable[[], T.Transform]] = {
    "BinarizeReward": T.BinarizeReward,
    "CatFrames": lambda: T.CatFrames(4, dim=-1, **OBS),
    "ClipTransform": lambda: T.ClipTransform(low=-0.1, high=0.1, **OBS),
    "DTypeCastTransform": lambda: T.DTypeCastTransform(torch.float32, torch.float64, **OBS),
    "DoubleToFloat": T.DoubleToFloat,
    "ExcludeTransform": lambda: T.ExcludeTransform("truncated"),
    "FiniteTensorDictCheck": T.FiniteTensorDictCheck,
    "InitTracker": T.InitTracker,
    "ObservationNorm": lambda: T.ObservationNorm(loc=0.5, scale=2.0, **OBS),
    "RenameTransform": lambda: T.RenameTransform(["obs"], ["other"], create_copy=True),
    "RewardClipping": lambda: T.RewardClipping(-0.1, 0.1),
    "RewardScaling": lambda: T.RewardScaling(0.0, 0.1),
    "RewardSum": T.RewardSum,
    "SelectTransform": lambda: T.SelectTransform("obs"),
    "SignTransform": lambda: T.SignTransform(in_keys=["reward"]),
    "StepCounter": T.StepCounter,
    "TargetReturn": lambda: T.TargetReturn(10.0),
    "TensorDictPrimer": lambda: T.TensorDictPrimer(
        {"z": Unbounded((3,))}, expand_specs=True, default_value=0
    ),
    "TimeMaxPool": lambda: T.TimeMaxPool(T=3, **OBS),
    "TrajCounter": T.TrajCounter,
    "UnsqueezeTransform": lambda: T.UnsqueezeTransform(-2, out_keys=["row"], **OBS),
    "VecNormV2": lambda: T.VecNormV2(**OBS),
}


def table(title: str) -> list[str]:
    """The names in the first column of a table's rows with "yes" in the second."""
    section = PAGE.partition(f"\n| {title} |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| yes", section, re.M)
    return sorted(name for row in rows for name in re.findall(r"`(\w+)`", row))


def cartpole() -> TorchRLEnv:
    return TorchRLEnv("masked", num_envs=3, id="CartPole-v1")


def policy(memory: MemoryModule) -> TensorDictSequential:
    act = TensorDictModule(lambda y: (y.sum(-1) > 0).long(), ["memory"], ["action"])
    return TensorDictSequential(memory, act)


@torch.no_grad()
def rollout(env: T.TransformedEnv, net: TensorDictModuleBase) -> TensorDict:
    """Rows that begin in the middle of episodes."""
    env.base_env.set_seed(0)
    data = env.rollout(40, net, break_when_any_done=False)[:, 10:]
    assert data["is_init"][:, 1:].any()
    assert not data["is_init"][:, 0].all()
    return data


def assert_same_outputs(memory: MemoryModule, data: TensorDictBase) -> None:
    with torch.no_grad(), set_recurrent_mode(True):
        y = memory(data.select(*memory.in_keys))["memory"]
    torch.testing.assert_close(y, data["memory"], **CLOSE)


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", ENV_TRANSFORMS)
@pytest.mark.filterwarnings("ignore:Support of VecNormV2")
def test_rows_from_an_environment_with_the_transform(name: str) -> None:
    env = T.TransformedEnv(cartpole(), ENV_TRANSFORMS[name]())
    if name != "InitTracker":
        env.append_transform(T.InitTracker())
    size = env.observation_spec["obs"].shape[-1]
    memory = MemoryModule("gru", size, 8, in_key="obs", out_key="memory")
    if env.observation_spec["obs"].dtype == torch.float64:
        memory.double()
    env.append_transform(memory.make_tensordict_primer())
    if name != "VecNormV2":
        check_env_specs(env)
    assert_same_outputs(memory, rollout(env, policy(memory)))


def test_the_page_lists_the_tested_transforms() -> None:
    assert table("environment transform") == sorted([*ENV_TRANSFORMS, "ActionMask"])
    samplers = [name.split()[0] for name in SAMPLERS]
    assert sorted({*samplers, "PrioritizedSliceSampler"}) == table("sampler")


class Choice(gym.Env):
    """Some of three actions are allowed at each step; others fail."""

    observation_space = spaces.Dict(
        {"pos": spaces.Box(-1.0, 1.0, (2,)), "allowed": spaces.MultiBinary(3)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        assert self.allowed[action]
        return self._observe(), 1.0, bool(self.np_random.integers(5) == 0), False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        self.allowed = np.zeros(3, np.int8)
        self.allowed[self.np_random.integers(3, size=2)] = 1
        return {
            "pos": self.np_random.uniform(-1, 1, 2).astype(np.float32),
            "allowed": self.allowed.copy(),
        }


def test_action_masks() -> None:
    memory = MemoryModule("gru", 2, 8, in_key="obs.pos", out_key="memory")
    transforms = [
        T.DTypeCastTransform(torch.int64, torch.bool, in_keys=["obs.allowed"]),
        T.ActionMask(action_key="action", mask_key="obs.allowed"),
        T.InitTracker(),
        memory.make_tensordict_primer(),
    ]
    env = T.TransformedEnv(TorchRLEnv(GymVecEnv([Choice] * 3)), T.Compose(*transforms))
    env.rollout(40, break_when_any_done=False)
    net = TensorDictSequential(
        memory,
        TensorDictModule(nn.Linear(8, 3), ["memory"], ["logits"]),
        ProbabilisticTensorDictModule(
            in_keys={"logits": "logits", "mask": "obs.allowed"},
            out_keys=["action"],
            distribution_class=MaskedCategorical,
        ),
    )
    assert_same_outputs(memory, rollout(env, net))


@cache
def collected(core: str) -> tuple[MemoryModule, TensorDict]:
    memory = MemoryModule(core, 2, 8, in_key="obs", out_key="memory")
    transforms = T.Compose(T.InitTracker(), memory.make_tensordict_primer())
    return memory, rollout(T.TransformedEnv(cartpole(), transforms), policy(memory))


END: dict[str, Any] = {"end_key": ("next", "done")}
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "SliceSampler": lambda: SliceSampler(slice_len=6, **END),
    "SliceSampler short": lambda: SliceSampler(slice_len=12, strict_length=False, **END),
    "SliceSampler padded": lambda: SliceSampler(
        slice_len=12, strict_length=False, pad_output=True, **END
    ),
    "SliceSamplerWithoutReplacement": lambda: SliceSamplerWithoutReplacement(slice_len=6, **END),
}
some_cores = pytest.mark.parametrize("core", ["gru", "ffm", "titans"])


@some_cores
@pytest.mark.parametrize("name", SAMPLERS)
def test_slices(name: str, core: str) -> None:
    memory, data = collected(core)
    storage = LazyTensorStorage(1000, ndim=2)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=SAMPLERS[name](), batch_size=24)
    buffer.extend(data)
    sample = buffer.sample()
    with torch.no_grad(), set_recurrent_mode(True):
        y = memory(sample.select(*memory.in_keys))["memory"]
    # Padding repeats a slice's last step; the mask marks real steps.
    real = sample.get(("collector", "mask"), torch.ones(sample.shape, dtype=torch.bool))
    torch.testing.assert_close(y[real], sample["memory"][real], **CLOSE)


@some_cores
def test_prioritized_slices(core: str) -> None:
    memory, data = collected(core)
    options = {"max_capacity": 1000, "alpha": 0.7, "beta": 0.9, "slice_len": 6}
    try:
        sampler = PrioritizedSliceSampler(**options, **END)
    except RuntimeError as error:
        pytest.skip(f"torchrl lacks its C++ part: {error}")
    storage = LazyTensorStorage(1000, ndim=2)
    buffer = TensorDictReplayBuffer(
        storage=storage, sampler=sampler, batch_size=24, priority_key="td_error"
    )
    buffer.extend(data)
    for _ in range(3):
        sample = buffer.sample()
        assert_same_outputs(memory, sample)
        buffer.update_tensordict_priority(sample.set("td_error", torch.rand(24)))


@some_cores
def test_trajectories_that_were_split(core: str) -> None:
    with warnings.catch_warnings():
        # Importing torchrl's collectors warns about their own classes.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchrl.collectors.utils import split_trajectories
    memory, data = collected(core)
    rows = split_trajectories(data, done_key="done")
    assert len(rows) > 6
    with torch.no_grad(), set_recurrent_mode(True):
        y = memory(rows.select(*memory.in_keys))["memory"]
    torch.testing.assert_close(y[rows["mask"]], rows["memory"][rows["mask"]], **CLOSE)


@some_cores
@pytest.mark.parametrize("every_step", [False, True])
def test_next_observations_several_steps_later(core: str, every_step: bool) -> None:
    memory, data = collected(core)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(3),
        batch_size=3,
        transform=T.MultiStepTransform(n_steps=3, gamma=0.9),
    )
    buffer.extend(data)
    after = buffer.storage[:]["next"].select(*memory.in_keys)
    with torch.no_grad():
        # One step from the state stored with each next observation.
        want = memory(after.clone())["memory"]
        # They do not follow each other near the end of an episode, so each needs its own state.
        flags = data["is_init"][:, : after.shape[1]] | every_step
        with set_recurrent_mode(True):
            y = memory(after.set("is_init", flags))["memory"]
    assert torch.allclose(y, want, **CLOSE) == every_step


def test_transforms_that_do_not_work_are_errors() -> None:
    memory = MemoryModule("gru", 2, 8, in_key="obs", out_key="memory")

    def roll(*transforms: T.Transform) -> None:
        primer = memory.make_tensordict_primer()
        env = T.TransformedEnv(cartpole(), T.Compose(*transforms, primer))
        env.rollout(60, policy(memory), break_when_any_done=False)

    with pytest.raises(UsageError, match="has ended: reset it before"):
        roll(T.FrameSkipTransform(4), T.InitTracker())
    with pytest.raises(ValueError, match="NoopResetEnv"):
        roll(T.NoopResetEnv(3), T.InitTracker())
    truncation = T.RandomTruncationTransform(min_horizon=3, max_horizon=9)
    with pytest.raises(UsageError, match="in the middle of an episode"):
        roll(T.StepCounter(), truncation, T.InitTracker())
    with pytest.raises(UsageError, match="SelectTransform"):
        roll(T.InitTracker(), T.SelectTransform("obs"))
