"""The statements of docs/torchrl.md about torchrl: a test fails if torchrl fixes a fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import InitTracker, TransformedEnv
from torchrl.envs.transforms import BurnInTransform
from torchrl.modules import (
    MLP,
    GRUModule,
    LSTMModule,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.objectives import SACLoss
from torchrl.objectives.value import GAE

from rlmem.errors import UsageError
from rlmem.torchrl import MemoryModule, TorchRLEnv

PAGE = (Path(__file__).parents[2] / "docs" / "torchrl.md").read_text()
SIZES = {"input_size": 2, "hidden_size": 4}
KEYS: dict[str, Any] = {**SIZES, "in_key": "obs", "out_key": "memory"}
STATES = ("recurrent_state_h", "recurrent_state_c")


def batch(time: int = 6) -> TensorDict:
    """Two rows with an episode start at step 3, and states of an LSTM."""
    start = torch.zeros(2, time, 1, dtype=torch.bool)
    start[:, 3] = True
    states = {key: torch.randn(2, time, 1, 4) for key in STATES}
    return TensorDict({"obs": torch.randn(2, time, 2), "is_init": start, **states}, [2, time])


def test_without_a_primer_torchrl_forgets_and_memory_module_raises() -> None:
    def rollout(module: TensorDictModuleBase) -> TensorDict:
        base = TorchRLEnv("masked", num_envs=3, id="CartPole-v1")
        base.set_seed(0)
        act = TensorDictModule(lambda y: (y.sum(-1) > 0).long(), ["memory"], ["action"])
        env = TransformedEnv(base, InitTracker())
        return env.rollout(5, TensorDictSequential(module, act))

    module = LSTMModule(**KEYS)
    with torch.no_grad():
        data = rollout(module)
        alone = data.select("obs").reshape(-1)
        alone["is_init"] = torch.ones(len(alone), 1, dtype=torch.bool)
        want = module(alone)["memory"].reshape(data["memory"].shape)
    torch.testing.assert_close(data["memory"], want)
    with pytest.raises(UsageError, match="make_tensordict_primer"):
        rollout(MemoryModule("gru", **KEYS))


def test_modes_disagree_about_starts_and_next_states_are_zeros() -> None:
    module = LSTMModule(**KEYS)
    data = batch()
    zeros = data.clone()
    for key in STATES:
        zeros[key].zero_()
    with torch.no_grad():
        stepped = [module(each[:, 3].clone())["memory"] for each in (data, zeros)]
        with set_recurrent_mode(True):
            row, from_zeros = module(data.clone()), module(zeros)
    assert torch.equal(*stepped)
    differs = (row["memory"] != from_zeros["memory"]).any(-1)
    assert differs[:, [0, 3]].all()
    for key in STATES:
        empty = (row["next", key] == 0).flatten(2).all(-1)
        assert empty[0].tolist() == [True, True, False, True, True, False]


def test_slice_flags_are_written_after_transforms() -> None:
    flags: list[Tensor] = []

    def record(sample: TensorDict) -> TensorDict:
        flags.append(sample["is_init"].clone())
        return sample

    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(40, ndim=2),
        sampler=SliceSampler(num_slices=4, end_key=("next", "done")),
        batch_size=8,
    )
    buffer.append_transform(record)
    data = TensorDict({"is_init": torch.zeros(2, 20, 1, dtype=torch.bool)}, [2, 20])
    data["next"] = TensorDict({"done": torch.zeros(2, 20, 1, dtype=torch.bool)}, [2, 20])
    buffer.extend(data)
    assert buffer.sample()["is_init"].squeeze(-1).tolist() == [True, False] * 4
    assert not flags[0].any()


@pytest.mark.parametrize("kind", [LSTMModule, GRUModule])
def test_only_memory_module_supports_the_vmap_of_gae(kind: type) -> None:
    def advantage(module: TensorDictModuleBase, data: TensorDict) -> Tensor:
        net = TensorDictSequential(module, ValueOperator(MLP(4, 1, num_cells=[]), ["memory"]))
        with set_recurrent_mode(True):
            return GAE(gamma=0.9, lmbda=0.9, value_network=net)(data)["advantage"]

    def with_next(data: TensorDict) -> TensorDict:
        flags = {key: torch.zeros_like(data["is_init"]) for key in ("done", "terminated")}
        reward = {"reward": torch.ones(*data.shape, 1)}
        return data.set("next", data.clone().update({**flags, **reward}))

    data = batch().rename_key_("recurrent_state_h", "recurrent_state")
    if kind is LSTMModule:
        data = batch()
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        advantage(kind(**KEYS), with_next(data))
    ours = MemoryModule("gru", **KEYS)
    data = batch().select("obs", "is_init").update(ours.state_spec.expand(2, 6).zero())
    assert advantage(ours, with_next(data)).isfinite().all()


def test_default_keys_are_shared_in_torchrl_and_follow_the_output_in_memory_module() -> None:
    first, second = LSTMModule(**KEYS), LSTMModule(**{**KEYS, "out_key": "other"})
    assert first.in_keys == second.in_keys
    assert first.out_keys[1:] == second.out_keys[1:]
    ours = [MemoryModule("gru", **{**KEYS, "out_key": key}) for key in ("memory", "other")]
    assert not set(ours[0].state_keys) & set(ours[1].state_keys)


def test_torchrls_burn_in_passes_the_end_of_an_episode() -> None:
    module = LSTMModule(**KEYS, default_recurrent_mode=True)
    data = batch()
    with torch.no_grad():
        fresh = module(data[:, 3:].clone().update({key: torch.zeros(2, 3, 1, 4) for key in STATES}))
        out = module(BurnInTransform([module], 3)(data))
    assert (out["memory"] - fresh["memory"]).abs().amax(-1)[:, 0].min() > 1e-3


def test_torchrl_redraws_one_critic_and_keeps_a_list_of_critics() -> None:
    def critic() -> TensorDictSequential:
        memory = MemoryModule("s5", 16, 16, in_key="obs", out_key="memory")
        value = ValueOperator(MLP(18, 1, num_cells=[]), ["memory", "action"], ["q"])
        return TensorDictSequential(memory, value)

    def parameter(name: str, critics: Any) -> Tensor:
        loss_module = SACLoss(actor, critics, num_qvalue_nets=2, target_entropy=-1.0)
        return loss_module.qvalue_network_params["module", "0", "core", name]

    loc = TensorDictModule(NormalParamExtractor(), ["obs"], ["loc", "scale"])
    actor = ProbabilisticActor(loc, ["loc", "scale"], distribution_class=TanhNormal)
    pair = [critic(), critic()]
    for name in ("Lambda_im", "B", "C"):
        want = torch.stack([getattr(each[0].core, name) for each in pair])
        assert torch.equal(parameter(name, pair), want)
        drawn = parameter(name, pair[0])
        assert not torch.isclose(drawn[0], want[0]).any()
        if name != "Lambda_im":
            assert drawn[0].std() > 1.5 * want[0].std()


def test_the_table_has_the_sizes_of_stored_states() -> None:
    table = PAGE.partition("\n## Cores\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (\d+) \|", table, re.M)
    assert len(rows) > 10
    for names, numbers in rows:
        for name in re.findall(r"`(\w+)`", names):
            module = MemoryModule(name, 64, 64, in_key="obs", out_key="memory")
            assert sum(s.shape.numel() for s in module.state_spec.values()) == int(numbers), name
