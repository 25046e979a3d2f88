"""torchrl's losses with recurrent critics equal those on the outputs of the memories.

The memories run step by step in the policy, so that the data have the states of all of them. The
losses run them over rows. Where a loss drops the state of a critic, `KeepKeys` retains it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.data import Bounded
from torchrl.envs import Compose, InitTracker, TransformedEnv
from torchrl.modules import (
    MLP,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import (
    CQLLoss,
    CrossQLoss,
    DDPGLoss,
    IQLLoss,
    REDQLoss,
    SACLoss,
    TD3BCLoss,
    TD3Loss,
)
from torchrl.objectives.value import GAE

from rlmem.errors import UsageError
from rlmem.torchrl import KeepKeys, MemoryModule, NextStarts, TorchRLEnv

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

WIDTH = 8
SPEC = {"action_spec": Bounded(-2.0, 2.0, (1,))}
ENTROPY = {"target_entropy": -1.0}


class Networks(NamedTuple):
    """The parts of actors and critics: memories by the key of their output, and heads."""

    memories: dict[str, MemoryModule]
    mean: TensorDictModule
    loc_scale: TensorDictModule
    critics: list[ValueOperator]
    value: ValueOperator


def mlp(size: int, out: int) -> MLP:
    return MLP(in_features=size, out_features=out, num_cells=[WIDTH])


@cache
def networks(core: str) -> Networks:
    keys = ("memory", "q_memory", "v_memory")
    critic_keys = ["q_memory", "action"]
    normal = nn.Sequential(mlp(WIDTH, 2), NormalParamExtractor())
    return Networks(
        {key: MemoryModule(core, 2, WIDTH, in_key="obs", out_key=key) for key in keys},
        TensorDictModule(nn.Sequential(mlp(WIDTH, 1), nn.Tanh()), ["memory"], ["action"]),
        TensorDictModule(normal, ["memory"], ["loc", "scale"]),
        [ValueOperator(mlp(WIDTH + 1, 1), critic_keys, ["state_action_value"]) for _ in range(2)],
        ValueOperator(mlp(WIDTH, 1), ["v_memory"]),
    )


@cache
def data(core: str) -> TensorDictBase:
    """Rows [3, 12] that begin in mid-episode, with the outputs of the memories and next outputs."""
    parts = networks(core)
    policy = TensorDictSequential(*parts.memories.values(), parts.mean)
    options = {"id": "Pendulum-v1", "max_episode_steps": 9}
    base = TorchRLEnv("masked", num_envs=3, check_actions=False, **options)
    base.set_seed(0)
    env = TransformedEnv(base, Compose(InitTracker(), get_primers_from_module(policy)))
    with torch.no_grad():
        rows = env.rollout(17, policy, break_when_any_done=False)[:, 5:]
        for memory in parts.memories.values():
            keys = (memory.in_keys[0], *memory.state_keys, "is_init")
            after = memory(rows["next"].select(*keys))
            rows["next", memory.out_keys[0]] = after[memory.out_keys[0]]
    assert rows["is_init"].sum() == 3
    return NextStarts()(rows)


def single_steps(batch: TensorDictBase) -> TensorDictBase:
    """The batch as single steps, each with its own stored state."""
    steps = batch.reshape(-1).clone()
    for part in (steps, steps["next"]):
        part["is_init"] = torch.ones_like(part["is_init"])
    return steps


class Agent:
    """Actors and critics with their memories, or without: on the memories' outputs in the data."""

    def __init__(self, core: str, recurrent: bool, kept: tuple[str, ...]) -> None:
        self.parts = copy.deepcopy(networks(core))
        self.recurrent = recurrent
        self.kept = [KeepKeys(*kept)] if kept else []

    def net(self, key: str, head: TensorDictModuleBase) -> TensorDictSequential:
        # Every network has its own copy of a memory.
        memory = [copy.deepcopy(self.parts.memories[key])] if self.recurrent else []
        return TensorDictSequential(*memory, head)

    def actor(self) -> TensorDictSequential:
        return TensorDictSequential(*self.kept, self.net("memory", self.parts.mean))

    def stochastic(self) -> ProbabilisticActor:
        net = TensorDictSequential(*self.kept, self.net("memory", self.parts.loc_scale))
        return ProbabilisticActor(net, ["loc", "scale"], distribution_class=TanhNormal)

    def critics(self) -> list[TensorDictSequential]:
        return [self.net("q_memory", head) for head in self.parts.critics]

    def value(self) -> TensorDictSequential:
        return self.net("v_memory", self.parts.value)


TWO = {"num_qvalue_nets": 2}
LOSSES: dict[str, Callable[[Agent], Any]] = {
    "ddpg": lambda a: DDPGLoss(a.actor(), a.critics()[0]),
    "td3": lambda a: TD3Loss(a.actor(), a.critics(), **TWO, **SPEC),
    "td3_bc": lambda a: TD3BCLoss(a.actor(), a.critics(), **TWO, **SPEC),
    "sac": lambda a: SACLoss(a.stochastic(), a.critics(), **TWO, **ENTROPY),
    "redq": lambda a: REDQLoss(a.stochastic(), a.critics(), **TWO, **ENTROPY, sub_sample_len=1),
    "crossq": lambda a: CrossQLoss(a.stochastic(), a.critics(), **TWO, **ENTROPY),
    "iql": lambda a: IQLLoss(a.stochastic(), a.critics(), value_network=a.value(), **TWO),
    "cql": lambda a: CQLLoss(a.stochastic(), a.critics(), **SPEC),
}
DROPPING = {"td3": "TD3Loss", "td3_bc": "TD3BCLoss", "iql": "IQLLoss", "cql": "CQLLoss"}


def losses(name: str, agent: Agent, batch: TensorDictBase) -> TensorDictBase:
    torch.manual_seed(0)
    loss_module = LOSSES[name](agent)
    loss_module.make_value_estimator(gamma=0.9)
    out = loss_module(batch.clone())
    return out.select(*[key for key in list(out.keys()) if key.startswith("loss_")])


@pytest.mark.by_day(3)
@pytest.mark.parametrize("core", ["s5", "gru", "titans"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_with_memories_equal_losses_on_their_outputs(name: str, core: str) -> None:
    memories = networks(core).memories
    batch = single_steps(data(core)) if name == "cql" else data(core)
    kept = (*memories["q_memory"].state_keys, *memories["v_memory"].state_keys)
    states = [key for memory in memories.values() for key in memory.state_keys]
    with_memory = batch.exclude(*memories, *[("next", key) for key in memories])
    got = losses(name, Agent(core, True, kept), with_memory)
    want = losses(name, Agent(core, False, tuple(memories)), batch.exclude(*states))
    assert len(list(want.keys())) >= 2
    for key, loss in want.items():
        torch.testing.assert_close(got[key], loss, rtol=1e-4, atol=1e-5, msg=key)
    assert all(loss.isfinite() for loss in want.values())
    got["loss_qvalue" if name != "ddpg" else "loss_value"].backward()


@pytest.mark.parametrize("name", DROPPING)
def test_an_error_names_the_loss_that_drops_a_critic_s_state(name: str) -> None:
    keys = networks("gru").memories["q_memory"].state_keys
    message = f"Loss was given {keys[0]!r}, but drops it .*select.*KeepKeys({keys[0]!r})"
    with pytest.raises(UsageError, match=re.escape(message).replace(r"\.\*", ".*")) as error:
        losses(name, Agent("gru", True, ()), data("gru"))
    assert str(error.value).startswith(DROPPING[name])


def test_an_error_names_everything_that_a_loss_drops() -> None:
    feedforward = TensorDictModule(nn.Sequential(mlp(2, 1), nn.Tanh()), ["obs"], ["action"])
    loss_module = TD3Loss(feedforward, Agent("gru", True, ()).critics(), **TWO, **SPEC)
    with pytest.raises(UsageError, match=r"KeepKeys\('is_init', 'q_memory_memory'\)"):
        loss_module(data("gru").clone())
    kept = KeepKeys("is_init", "q_memory_memory")
    actor = TensorDictSequential(kept, feedforward)
    loss_module = TD3Loss(actor, Agent("gru", True, ()).critics(), **TWO, **SPEC)
    assert loss_module(data("gru").clone())["loss_qvalue"].isfinite()


def test_a_batch_without_states_is_no_fault_of_the_loss() -> None:
    key = "q_memory_memory"
    with pytest.raises(UsageError, match="make_tensordict_primer"):
        losses("td3", Agent("gru", True, (key,)), data("gru").exclude(key))


def test_cql_repeats_steps_within_rows() -> None:
    """docs/torchrl.md says so; fails if a release of torchrl fixes it."""
    memories = networks("gru").memories
    kept = tuple(memories["q_memory"].state_keys)
    got = losses("cql", Agent("gru", True, kept), data("gru"))
    want = losses("cql", Agent("gru", False, ("q_memory",)), data("gru"))
    torch.testing.assert_close(got["loss_qvalue"], want["loss_qvalue"], rtol=1e-4, atol=1e-5)
    assert (got["loss_cql"] - want["loss_cql"]).abs() > 1e-3


def test_a_critic_whose_memory_runs_in_the_policy_has_right_values_in_gae() -> None:
    batch, agent = data("gru"), Agent("gru", True, ())
    gae = GAE(gamma=0.9, lmbda=0.9, value_network=agent.value())
    with torch.no_grad(), set_recurrent_mode(True):
        found = gae(batch.clone())
        value = agent.parts.value(batch.clone())["state_value"]
        after = agent.parts.value(batch["next"].clone())["state_value"]
        torch.testing.assert_close(found["state_value"], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["next", "state_value"], after, rtol=1e-4, atol=1e-5)
        # GAE refuses data with values, so only the critic's memory runs in the policy.
        with pytest.raises(RuntimeError, match="exclusive"):
            gae(batch.clone().set("state_value", value))
