"""Networks that are made twice share their data; two memories with the same keys meet in none."""

from __future__ import annotations

import copy
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv
from torchrl.modules import (
    MLP,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import SACLoss

from rlmem.errors import UsageError
from rlmem.torchrl import MemoryModule, TorchRLEnv
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
SHARED = "two memories in one {} keep their states under the same keys, 'memory_memory'"


def memory(core: str = "gru", in_key: str = "obs", out_key: str = "memory") -> MemoryModule:
    return MemoryModule(core, 2, 8, in_key=in_key, out_key=out_key)


def make_policy() -> TensorDictSequential:
    head = TensorDictModule(lambda y: (y.sum(-1) > 0).long(), ["memory"], ["action"])
    return TensorDictSequential(memory(), head)


def make_env(policy: nn.Module) -> EnvBase:
    base = TorchRLEnv("masked", num_envs=2, id="CartPole-v1")
    return TransformedEnv(base, Compose(InitTracker(), get_primers_from_module(policy)))


@torch.no_grad()
def rollout(policy: nn.Module) -> TensorDict:
    return make_env(policy).rollout(20, policy, break_when_any_done=False)


def test_a_second_network_reads_the_data_of_the_first() -> None:
    acting, training = make_policy(), make_policy()
    training.load_state_dict(acting.state_dict())
    data = rollout(acting)
    with set_recurrent_mode(True):
        y = training(data[:, 5:].clone())["memory"]
    torch.testing.assert_close(y, data["memory"][:, 5:], rtol=1e-4, atol=1e-5)
    # Also after each other on the same data.
    acting(data)
    training(data)


def test_a_collector_makes_its_own_network() -> None:
    with warnings.catch_warnings():
        # Importing torchrl's collectors warns about their own classes.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchrl.collectors import Collector
    training = make_policy()
    collector = Collector(
        lambda: make_env(make_policy()),
        policy_factory=make_policy,
        frames_per_batch=16,
        total_frames=32,
    )
    collector.policy.load_state_dict(training.state_dict())
    for data in collector:
        with set_recurrent_mode(True):
            y = training(data.clone())["memory"]
        torch.testing.assert_close(y, data["memory"], rtol=1e-4, atol=1e-5)
    collector.shutdown()


STORE = """
import sys
sys.path.insert(0, ".")
from tests.torchrl.test_torchrl_networks import LazyTensorStorage, TensorDictReplayBuffer
from tests.torchrl.test_torchrl_networks import make_policy, rollout
[make_policy() for _ in range(3)]
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2), batch_size=2)
buffer.extend(rollout(make_policy()))
buffer.dumps(sys.argv[1])
"""


def test_a_stored_buffer_fits_the_next_process(tmp_path: Path) -> None:
    command = [*warm_python(), "-W", "ignore", "-c", STORE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2), batch_size=2)
    buffer.loads(tmp_path)
    with set_recurrent_mode(True):
        assert make_policy()(buffer.sample())["memory"].shape == (2, 20, 8)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("recurrently", [False, True])
def test_two_memories_with_the_same_keys_in_a_sequence_are_refused(
    copied: bool, recurrently: bool
) -> None:
    first = memory()
    data = rollout(TensorDictSequential(first, make_policy()[1]))
    second = copy.deepcopy(first) if copied else memory("lstm", in_key="obs")
    both = TensorDictSequential(TensorDictSequential(first), second)
    if not recurrently:
        data = data[:, 3].exclude("next")
    for _ in range(2):
        with (
            set_recurrent_mode(recurrently),
            pytest.raises(UsageError, match=SHARED.format("TensorDictSequential")),
        ):
            both(data.clone())
    third = memory(out_key="other")
    with set_recurrent_mode(recurrently):
        out = TensorDictSequential(first, third)(data.update(zeros(third, data)))
    assert out["other"].shape == out["memory"].shape


def zeros(module: MemoryModule, data: TensorDict) -> TensorDict:
    return module.state_spec.expand(data.shape).zero()


def test_an_environment_s_rollout_refuses_them() -> None:
    with pytest.raises(UsageError, match=SHARED.format("TensorDictSequential")):
        rollout(TensorDictSequential(memory(), make_policy()))


def sac(critic_key: str) -> tuple[SACLoss, TensorDict]:
    """`SACLoss` with two critics, and data with the states of an actor and of a critic."""
    normal = nn.Sequential(MLP(in_features=8, out_features=2, num_cells=[]), NormalParamExtractor())
    net = TensorDictSequential(memory(), TensorDictModule(normal, ["memory"], ["loc", "scale"]))
    actor = ProbabilisticActor(net, ["loc", "scale"], distribution_class=TanhNormal)

    def critic() -> TensorDictSequential:
        value = MLP(in_features=9, out_features=1, num_cells=[])
        keys = [critic_key, "action"]
        return TensorDictSequential(
            memory(out_key=critic_key), ValueOperator(value, keys, ["state_action_value"])
        )

    flags = {key: torch.zeros(2, 5, 1, dtype=torch.bool) for key in ("is_init", "done")}
    leaves = {"obs": torch.randn(2, 5, 2), "action": torch.rand(2, 5, 1), **flags}
    data = TensorDict(leaves, [2, 5])
    for each in (net[0], memory(out_key=critic_key)):
        data.update(zeros(each, data))
    ends = {"reward": torch.randn(2, 5, 1), "terminated": flags["done"]}
    data["next"] = data.clone().update(ends)
    return SACLoss(actor, [critic(), critic()], num_qvalue_nets=2, target_entropy=-1.0), data


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_a_loss_refuses_them_but_not_twin_critics() -> None:
    loss_module, data = sac("memory")
    with pytest.raises(UsageError, match=SHARED.format("SACLoss")):
        loss_module(data)
    loss_module, data = sac("q_memory")
    assert loss_module(data)["loss_qvalue"].isfinite()
