"""`MemoryModule` in torchrl's collectors, advantages, replay buffers, losses, and in windows."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import Compose, GymEnv, InitTracker, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import ProbabilisticActor, ValueOperator, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from rlmem.errors import UsageError
from rlmem.torchrl import MemoryModule, TorchRLEnv
from rlmem.torchrl.windows import WindowStates
from tests.torchrl.memories import collect, module, recurrent, rows
from tests.torchrl.test_torchrl_env import collector

TASK, WIDTH, CORES = "popgym-velocity-only-cartpole", 8, ["ffm", "titans", "aaren"]


class Agent(NamedTuple):
    """A memory shared by an actor and a critic, and collected data [B, T] with whole episodes."""

    memory: MemoryModule
    actor: ProbabilisticActor
    critic: TensorDictSequential
    data: TensorDict


@cache
def agent(core: str) -> Agent:
    memory = MemoryModule(core, 2, WIDTH, in_key="obs", out_key="embed")
    head = TensorDictModule(nn.Linear(WIDTH, 2), ["embed"], ["logits"])
    actor = ProbabilisticActor(
        TensorDictSequential(memory, head),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    value = ValueOperator(nn.Linear(WIDTH, 1), in_keys=["embed"])
    env = TransformedEnv(TorchRLEnv(TASK, num_envs=4), get_env_transforms_from_module(actor))
    env.set_seed(0)
    source = collector(env, actor, frames_per_batch=4 * 40, total_frames=4 * 80)
    # The second batch: its rows begin in mid-episode.
    *_, data = (batch.clone() for batch in source)
    source.shutdown()
    return Agent(memory, actor, TensorDictSequential(memory, value), data)


@pytest.mark.parametrize("core", CORES)
def test_recurrent_mode_equals_the_collected_outputs(core):
    memory, *_, data = agent(core)
    state, start = data[memory.state_keys[0]], data["is_init"].squeeze(-1)
    assert not start[:, 0].all()
    assert start.sum() > 4
    assert not state[start].any()
    assert (state[~start][:, -1] == 1).all()
    y = recurrent(memory, data)["embed"]
    torch.testing.assert_close(y, data["embed"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("core", CORES)
def test_gae_in_recurrent_mode_equals_values_step_by_step(core):
    memory, _, critic, data = agent(core)
    with torch.no_grad():
        value = critic(data.select(*memory.in_keys))["state_value"]
        # The state after each step belongs to the observation after it.
        after = critic(data["next"].select(*memory.in_keys))["state_value"]
    found = {}
    for shifted in (False, True):
        gae = GAE(gamma=0.9, lmbda=0.8, value_network=critic, shifted=shifted)
        # Runs the module under `torch.vmap`, without `deactivate_vmap`.
        with set_recurrent_mode(True):
            found[shifted] = gae(data.clone())
    live = ~data["next", "done"]
    torch.testing.assert_close(found[False]["state_value"], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found[False]["next", "state_value"][live], after[live], rtol=1e-4, atol=1e-5
    )
    advantage = (found[shifted]["advantage"] for shifted in (False, True))
    torch.testing.assert_close(*advantage, rtol=1e-4, atol=1e-4)


def test_gae_does_not_use_recurrent_mode_by_default():
    # torchrl sets recurrent mode for losses, but not for advantages. GAE also sets `is_init` for
    # the next observation after a start, and step by step that forgets the first observation.
    memory, _, critic, data = agent("ffm")
    with torch.no_grad():
        after = critic(data["next"].select(*memory.in_keys))["state_value"]
    gae = GAE(gamma=0.9, lmbda=0.8, value_network=critic)
    found = gae(data.clone())["next", "state_value"]
    off = (found - after).abs() > 1e-4
    assert off[data["is_init"] & ~data["next", "done"]].all()
    assert not off[~data["is_init"]].any()


def test_the_state_of_a_memory_outside_the_policy_is_stored_as_zeros():
    # For example a critic's own memory: its rows start without memory in mid-episode.
    critic = MemoryModule("gru", 2, WIDTH, in_key="obs", out_key="seen")
    env = TransformedEnv(TorchRLEnv(TASK, num_envs=2), InitTracker())
    env.append_transform(critic.make_tensordict_primer())
    data = env.rollout(5, break_when_any_done=False)
    assert not data[critic.state_keys[0]].any()
    assert not data["next", critic.state_keys[0]].any()


@pytest.mark.parametrize("core", CORES)
def test_replayed_slices_start_from_their_stored_states(core):
    memory, *_, data = agent(core)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000, ndim=2),
        sampler=SliceSampler(slice_len=6, end_key=("next", "done")),
        batch_size=60,
    )
    buffer.extend(data)
    sample = buffer.sample()
    assert sample.shape == (60,)
    assert sample["is_init"][::6].all()
    assert (sample[memory.state_keys[0]][::6, -1] == 1).any()
    y = recurrent(memory, sample)["embed"]
    torch.testing.assert_close(y, sample["embed"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("core", ["ffm", "titans"])
def test_ppo_has_gradients_of_all_parameters(core):
    _, actor, critic, data = agent(core)
    loss = ClipPPOLoss(actor, critic)
    data = data.clone()
    with torch.no_grad(), set_recurrent_mode(True):
        GAE(gamma=0.9, lmbda=0.8, value_network=critic)(data)
    # Random advantages suffice: the loss must depend on each parameter.
    losses = loss(data)
    (losses["loss_objective"] + losses["loss_critic"]).backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert losses["kl_approx"].abs() < 1e-4


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_the_primer_works_around_and_inside_a_batch_of_environments(inside):
    memory = MemoryModule("titans", 4, WIDTH, in_key="observation", out_key="embed")
    policy = TensorDictSequential(
        memory, TensorDictModule(lambda y: (y.sum(-1) > 0).long(), ["embed"], ["action"])
    )

    def cartpole() -> GymEnv:
        return GymEnv("CartPole-v1", categorical_action_encoding=True)

    def with_primer(env: GymEnv | SerialEnv) -> TransformedEnv:
        return TransformedEnv(env, Compose(InitTracker(), memory.make_tensordict_primer()))

    env = SerialEnv(2, lambda: with_primer(cartpole()) if inside else cartpole())
    env = env if inside else with_primer(env)
    check_env_specs(env)
    env.set_seed(0)
    with torch.no_grad():
        data = env.rollout(40, policy, break_when_any_done=False)
    assert data["is_init"].sum() > 2
    y = recurrent(memory, data)["embed"]
    torch.testing.assert_close(y, data["embed"], rtol=1e-4, atol=1e-5)


def test_a_rollout_without_the_primer_is_an_error():
    memory = MemoryModule("gru", 2, 2, in_key="obs", out_key="action")
    env = TransformedEnv(TorchRLEnv(TASK, num_envs=2), InitTracker())
    with pytest.raises(UsageError, match="make_tensordict_primer"):
        env.rollout(3, memory)


@pytest.mark.parametrize("core", ["ffm", "titans"])
def test_windows_store_one_state(core):
    memory = module(core, stored="rows")
    batch = collect(memory, *rows(12))
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100), transform=WindowStates(memory, window=4), batch_size=30
    )
    buffer.extend(batch)
    kept = buffer.storage[:]
    sample = buffer.sample()
    for key in memory.state_keys:
        assert kept[key].shape == kept["next"][key].shape == (9, *batch[key].shape[2:])
        assert sample[key].shape == (30, 4, *batch[key].shape[2:])
        assert sample[key].stride(1) == 0
    torch.testing.assert_close(recurrent(memory, sample)["y"], sample["y"], rtol=1e-4, atol=1e-5)
    assert len(buffer) == 9


def test_invalid_windows_are_usage_errors():
    memory = module("gru", stored="rows")
    with pytest.raises(UsageError, match="windows of 5"):
        WindowStates(memory, window=5)._inv_call(collect(memory, *rows(12)))
    with pytest.raises(UsageError, match="stored="):
        WindowStates(module("gru"), window=4)
