"""`TorchRLEnv` yields the data of the wrapped environment in torchrl's format."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDictBase
from torchrl.data import Unbounded
from torchrl.envs import (
    Compose,
    InitTracker,
    RewardSum,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.envs.utils import check_env_specs

from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.errors import UsageError
from rlmem.torchrl import TorchRLEnv
from tests.envs.test_gym_env import shown
from tests.torchrl.common import (
    SEED,
    actions,
    irregular,
    lockstep,
    play,
    replay,
    with_previous_action,
)


def assert_same(data: TensorDictBase, before: list[Tensors], steps: list[Transition]) -> None:
    """Assert that data [N, T] equal a plain rollout."""

    def same(leaf: torch.Tensor, expected: list[torch.Tensor]) -> None:
        torch.testing.assert_close(leaf, torch.stack(expected, 1), rtol=0, atol=0)

    for key in before[0]:
        same(data[key], [obs[key] for obs in before])
        same(data["next", key], [step.final_obs[key] for step in steps])
    same(data["next", "reward"].squeeze(-1), [step.reward for step in steps])
    same(data["next", "terminated"].squeeze(-1), [step.terminated for step in steps])
    same(data["next", "truncated"].squeeze(-1), [step.truncated for step in steps])
    done = [step.terminated | step.truncated for step in steps]
    same(data["next", "done"].squeeze(-1), done)
    assert not data["done"].any()
    same(data["is_init"].squeeze(-1), [torch.ones_like(done[0]), *done[:-1]])


def collector(*args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        # Importing torchrl's collectors warns about their own classes.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchrl.collectors import Collector
    return Collector(*args, **options)


@pytest.mark.parametrize("make", [irregular, lockstep, with_previous_action])
def test_a_rollout_equals_a_plain_rollout(make: Callable[[], VecEnv]) -> None:
    plain = make()
    taken = actions(plain, 110)
    before, steps = play(plain, taken, SEED)
    assert sum(int((step.terminated | step.truncated).sum()) for step in steps) >= 8
    env = TransformedEnv(TorchRLEnv(make()), InitTracker())
    env.set_seed(SEED)
    data = env.rollout(110, replay(taken), break_when_any_done=False)
    assert_same(data, before, steps)
    assert torch.equal(data["action"], torch.stack([each["action"] for each in taken], 1))


@pytest.mark.parametrize("make", [irregular, lockstep])
def test_collected_data_equal_a_plain_rollout(make: Callable[[], VecEnv]) -> None:
    env = TransformedEnv(TorchRLEnv(make()), InitTracker())
    source = collector(env, None, frames_per_batch=4 * 27, total_frames=4 * 108)
    source.set_seed(SEED)
    source.reset()
    # Every iteration returns the same tensordict object.
    data = torch.cat([batch.clone() for batch in source], 1)
    source.shutdown()
    taken = [{"action": action} for action in data["action"].unbind(1)]
    assert_same(data, *play(make(), taken, SEED))


@pytest.mark.parametrize("make", [irregular, with_previous_action])
def test_returned_tensors_can_be_written_to(make: Callable[[], VecEnv]) -> None:
    taken = actions(make(), 60)

    def rollout(overwrite: bool) -> TensorDictBase:
        env = TorchRLEnv(make())
        state, steps = env.reset(seed=SEED), []
        for action in taken:
            out, after = env.step_and_maybe_reset(state.update(action, clone=True))
            steps.append(out.clone())
            state = after.clone()
            if overwrite:
                for leaf in (*out.values(True, True), *after.values(True, True)):
                    leaf.fill_(1)
        return torch.stack(steps, 1)

    data = rollout(True)
    assert data["next", "done"].any()
    assert (data == rollout(False)).all()


def test_torchrls_transforms_work() -> None:
    primer = TensorDictPrimer({"memory": Unbounded(shape=(3,))}, expand_specs=True, default_value=0)
    transforms = Compose(InitTracker(), RewardSum(), StepCounter(), primer)
    env = TransformedEnv(TorchRLEnv(irregular()), transforms)
    check_env_specs(env)
    data = env.rollout(
        80,
        lambda td: env.rand_action(td).set("memory", td["memory"] + 1),
        break_when_any_done=False,
    )
    total, count = torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.int64)
    for step in data.unbind(1):
        total, count = total + step["next", "reward"], count + 1
        torch.testing.assert_close(step["next", "episode_reward"], total)
        assert torch.equal(step["next", "step_count"], count)
        assert torch.equal(step["memory"], count.expand(4, 3).float())
        done = step["next", "done"]
        total, count = total.where(~done, 0.0), count.where(~done, 0)
    assert data["next", "done"].sum() > 20


def test_several_environments_run_in_a_serial_env() -> None:
    env = SerialEnv(2, lambda: TorchRLEnv(irregular()))
    check_env_specs(env)
    data = env.rollout(40, break_when_any_done=False)
    assert data.shape == (2, 4, 40)
    assert data["next", "done"].sum() > 20


def test_constructor_errors_and_closing() -> None:
    class CountsCloses(GymVecEnv):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    plain = CountsCloses([shown] * 2)
    env = TorchRLEnv(plain)
    env.close()
    env.close()
    assert plain.closed == 1
    with pytest.raises(UsageError, match="go with an environment's name"):
        TorchRLEnv(plain, num_envs=3)
    with pytest.raises(UsageError, match="needs num_envs"):
        TorchRLEnv("popgym-repeat")
    assert TorchRLEnv(plain).to("cpu").batch_size == torch.Size([2])
    with pytest.raises(UsageError, match="stay on cpu"):
        TorchRLEnv(plain).to("meta")
