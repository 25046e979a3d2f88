"""Targets of recurrent off-policy losses are identical to stepping through the replayed rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import Compose, InitTracker, TransformedEnv
from torchrl.modules import (
    MLP,
    EGreedyModule,
    GRUModule,
    LSTMModule,
    QValueModule,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import DQNLoss
from torchrl.objectives.value import TD0Estimator

from rlmem.errors import UsageError
from rlmem.torchrl import KeepNextStates, MemoryModule, NextStarts, TorchRLEnv

PAGE = (Path(__file__).parents[2] / "docs" / "torchrl.md").read_text()
ENVS, TIME, SLICES, LENGTH, HIDDEN, GAMMA = 6, 40, 12, 8, 16, 0.9
KEYS: dict[str, Any] = {
    "input_size": 2,
    "hidden_size": HIDDEN,
    "in_key": "obs",
    "out_key": "memory",
}
TORCHRL = {"LSTMModule": LSTMModule, "GRUModule": GRUModule}
EXACT = ["LSTMModule", "GRUModule", "ffm", "gru", "transformer_xl"]


def memory(name: str, keep: bool = True) -> TensorDictModuleBase:
    if name not in TORCHRL:
        return MemoryModule(name, **KEYS)
    module = TORCHRL[name](**KEYS)
    return KeepNextStates(module) if keep else module


def q_network(module: TensorDictModuleBase) -> TensorDictSequential:
    head = MLP(in_features=HIDDEN, out_features=2, num_cells=[16])
    return TensorDictSequential(
        module,
        TensorDictModule(head, in_keys=["memory"], out_keys=["action_value"]),
        QValueModule(spec=None, action_space="categorical"),
    )


def played(net: TensorDictSequential) -> TensorDict:
    """A rollout [ENVS, TIME] with several episodes per row."""
    base = TorchRLEnv("masked", num_envs=ENVS, id="CartPole-v1")
    base.set_seed(0)
    env = TransformedEnv(base, Compose(InitTracker(), get_primers_from_module(net)))
    explore = EGreedyModule(spec=base.action_spec_unbatched, eps_init=0.5, eps_end=0.5)
    data = env.rollout(TIME, TensorDictSequential(net, explore), break_when_any_done=False)
    assert data["next", "terminated"].sum() > ENVS
    return data.set("begins", data["is_init"])


def sampled(data: TensorDictBase, layout: str, *transforms: NextStarts) -> TensorDictBase:
    """A sampled batch: whole rows, or a flat batch of slices."""
    options: dict[str, Any] = {"storage": LazyTensorStorage(ENVS), "batch_size": ENVS}
    if layout == "slices":
        sampler = SliceSampler(num_slices=SLICES, end_key=("next", "done"))
        storage = LazyTensorStorage(data.numel(), ndim=2)
        options = {"storage": storage, "sampler": sampler, "batch_size": SLICES * LENGTH}
    buffer = TensorDictReplayBuffer(**options)
    for transform in transforms:
        buffer.append_transform(transform)
    buffer.extend(data)
    return buffer.sample()


def rows(batch: TensorDictBase) -> TensorDictBase:
    """The batch with a time dimension."""
    return batch if batch.ndim == 2 else batch.reshape(SLICES, LENGTH)


@torch.no_grad()
def stepped(net: TensorDictSequential, batch: TensorDictBase, value: str) -> Tensor:
    """Values [B, T] of all next observations, step by step from the first stored state."""
    keys = [key for key in net.in_keys if key not in ("obs", "is_init")]
    now = batch[:, 0].select("obs", *keys)
    values = []
    for t in range(batch.shape[1]):
        # A slice continues from its first state, also if an episode begins there.
        begins = batch["begins"][:, t] if t else torch.zeros_like(batch["begins"][:, 0])
        now = net(now.set("obs", batch["obs"][:, t]).set("is_init", begins))["next"].select(*keys)
        ahead = now.clone().set("obs", batch["next", "obs"][:, t])
        values.append(net(ahead.set("is_init", torch.zeros_like(begins)))[value].amax(-1))
    return torch.stack(values, 1).unsqueeze(-1)


def target(batch: TensorDictBase, value: Tensor) -> Tensor:
    return batch["next", "reward"] + GAMMA * value * ~batch["next", "terminated"]


def q_targets(net: TensorDictSequential, batch: TensorDictBase) -> Tensor:
    """The targets of `DQNLoss`, taken from its value estimator."""
    loss_module = DQNLoss(net, action_space="categorical", delay_value=False)
    loss_module.make_value_estimator(gamma=GAMMA)
    estimator, got = loss_module.value_estimator, []
    estimate = estimator.value_estimate

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        got.append(estimate(*args, **kwargs))
        return got[-1]

    estimator.value_estimate = recorded
    with set_recurrent_mode(True), torch.no_grad():
        loss_module(batch.clone())
    return got[0]


def errors(name: str, layout: str, corrected: bool) -> Tensor:
    """Absolute errors of the targets of `DQNLoss`, compared with stepping through the batch."""
    net = q_network(memory(name, keep=corrected))
    length = LENGTH if layout == "slices" else None
    batch = sampled(played(net), layout, *[NextStarts(slice_len=length)] * corrected)
    want = target(rows(batch), stepped(net, rows(batch), "action_value"))
    error = (rows(q_targets(net, batch).reshape(batch.shape)).unsqueeze(-1) - want).abs()
    return error[~rows(batch)["next", "terminated"]]


@pytest.mark.by_day(2)
@pytest.mark.parametrize("layout", ["rows", "slices"])
@pytest.mark.parametrize("name", EXACT)
def test_corrected_targets_equal_stepping_through_the_batch(name: str, layout: str) -> None:
    assert errors(name, layout, corrected=True).max() < 1e-5


@pytest.mark.parametrize("name", TORCHRL)
def test_most_targets_are_wrong_with_torchrl_alone(name: str) -> None:
    """Wrong targets are as frequent as docs/torchrl.md says; fails if torchrl fixes the fault."""
    row = re.search(rf"^\| `{name}` \| (\d+) % \| (\d+) % \|$", PAGE, re.M)
    assert row
    for layout, percent in zip(("rows", "slices"), row.groups(), strict=True):
        wrong = (errors(name, layout, corrected=False) > 1e-5).float().mean().item()
        assert abs(100 * wrong - int(percent)) < 12


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", ["LSTMModule", "ffm"])
def test_td0_targets_need_only_next_starts(name: str, keep: bool) -> None:
    """`TD0Estimator` does not run over the root first, so no state is overwritten."""
    net = TensorDictSequential(
        memory(name, keep), ValueOperator(MLP(HIDDEN, 1, num_cells=[]), in_keys=["memory"])
    )
    data = played(q_network(net[0]))
    estimator = TD0Estimator(gamma=GAMMA, value_network=net)
    for corrected in (False, True):
        batch = sampled(data, "rows", *[NextStarts()] * corrected)
        want = target(batch, stepped(net, batch, "state_value"))
        with set_recurrent_mode(True), torch.no_grad():
            wrong = (estimator.value_estimate(batch) - want).abs() > 1e-5
        assert wrong.any() != corrected


def test_next_starts_sets_the_flags() -> None:
    start = torch.zeros(8, 1, dtype=torch.bool)
    start[5] = True
    batch = TensorDict({"is_init": start, ("next", "is_init"): torch.zeros_like(start)}, [8])
    batch["next", "is_init"][7] = True
    assert NextStarts()(batch.clone())["next", "is_init"].squeeze(-1).nonzero().tolist() == [
        [5],
        [7],
    ]
    marked = NextStarts(slice_len=2)(batch.clone())
    assert marked["next", "is_init"].squeeze(-1).nonzero().flatten().tolist() == [0, 2, 4, 5, 6, 7]
    assert torch.equal(marked["is_init"], start)
    del batch["next"]
    assert torch.equal(NextStarts()(batch)["next", "is_init"], start)


def test_invalid_use_of_next_starts_is_a_usage_error() -> None:
    batch = TensorDict({"is_init": torch.zeros(8, 1, dtype=torch.bool)}, [8])
    with pytest.raises(UsageError, match="8 steps cannot be divided into slices of slice_len=3"):
        NextStarts(slice_len=3)(batch)
    with pytest.raises(UsageError, match="slice_len must be an integer of at least 1, not 0"):
        NextStarts(slice_len=0)
    with pytest.raises(UsageError, match=r"append the transform InitTracker\(\)"):
        NextStarts()(batch.exclude("is_init"))


def test_keep_next_states_leaves_missing_states_to_the_module() -> None:
    module = LSTMModule(**KEYS)
    batch = TensorDict(
        {"obs": torch.randn(2, 5, 2), "is_init": torch.zeros(2, 5, 1).bool()}, [2, 5]
    )
    with set_recurrent_mode(True):
        want, got = module(batch.clone()), KeepNextStates(module)(batch.clone())
    for key in module.out_keys:
        assert torch.equal(got[key], want[key])
    step = batch[:, 0]
    assert torch.equal(KeepNextStates(module)(step.clone())["memory"], module(step)["memory"])
