"""torchrl's `BurnInTransform` with `MemoryModule`: outputs equal a scan with the new weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs.transforms import BurnInTransform
from torchrl.modules import QValueModule, set_recurrent_mode
from torchrl.objectives import DQNLoss

from rlmem.torchrl import MemoryModule, NextStarts, WindowStates
from tests.cores.common import INPUT, OUTPUT, every_core
from tests.torchrl.memories import collect, module, recurrent, rows

BURN = 4
TIGHT = {"rtol": 1e-4, "atol": 1e-5}
some_cores = pytest.mark.parametrize("name", ["gru", "ffm", "titans"])


def collected(memory: MemoryModule, first: int = 2, time: int = 13) -> TensorDict:
    """Data as a collector stores them, from step `first` on, in the middle of episodes.

    In row 0 episodes start at steps 5 and 6: in the last step of a burn-in of 4, and after it.
    """
    obs, start = rows(time)
    batch = collect(memory, obs, start)
    batch["next", "done"] = torch.cat([start[:, 1:], start[:, :1]], 1)
    return batch[:, first:].clone()


def change(net: nn.Module) -> None:
    """Change all weights, as training does."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@torch.no_grad()
def scanned(memory: MemoryModule, batch: TensorDictBase) -> Tensor:
    """Outputs after the burn-in of a scan of the whole rows, from their first stored states."""
    state = batch[:, 0].select(*memory.state_keys)
    y, _ = memory.forward_state(batch["obs"], state, batch["is_init"].squeeze(-1), recurrent=True)
    return y[:, BURN:]


@pytest.mark.by_day(3)
@every_core
def test_burnt_in_outputs_equal_a_scan_with_the_new_weights(name: str) -> None:
    memory = module(name)
    batch = collected(memory)
    assert batch["is_init"][0, BURN]
    before = scanned(memory, batch)
    change(memory)
    want = scanned(memory, batch)
    assert (want - before).abs().max() > 1e-2
    # Also if neither the module nor a context sets recurrent mode: burn-in is of rows.
    out = BurnInTransform([memory], BURN)(batch)
    torch.testing.assert_close(recurrent(memory, out)["y"], want, **TIGHT)
    # Neither the batch nor later states have changed.
    for key in memory.state_keys:
        assert torch.equal(out[key][:, 1:], batch[key][:, BURN + 1 :])
        assert torch.equal(out["next", key], batch["next", key][:, BURN:])


@some_cores
@pytest.mark.parametrize("next_states", ["missing", "always", "never"])
def test_burn_in_with_every_choice_of_next_states(name: str, next_states: str) -> None:
    memory = module(name, next_states=next_states)
    batch = collected(memory)
    change(memory)
    want = scanned(memory, batch)
    given = [batch, batch.exclude("next")] if next_states != "never" else [batch]
    # Without `done` the start of an episode right after the burn-in is unknown: not row 0.
    for each, first in zip(given, (0, 1), strict=False):
        with set_recurrent_mode(True):
            out = BurnInTransform([memory], BURN)(each)
            torch.testing.assert_close(memory(out)["y"][first:], want[first:], **TIGHT)


@some_cores
def test_without_gradients_only_the_last_next_state_is_new(name: str) -> None:
    memory = module(name)
    batch = collected(memory)
    keys = [("next", key) for key in memory.state_keys]
    marked = batch.clone()
    for key in keys:
        marked[key].zero_()
    with torch.no_grad(), set_recurrent_mode(True):
        out = memory(marked.clone())
    ended = batch["next", "done"][:, -1]
    assert ended.any()
    for key in keys:
        assert not out[key][:, :-1].any()
        last = batch[key][:, -1].masked_fill(ended, 0)
        if key == keys[0]:
            last[:, -1] *= 2  # marked as burnt in
        torch.testing.assert_close(out[key][:, -1], last)
    # A flat batch has no rows, and with gradients all are kept.
    with torch.no_grad():
        assert not recurrent(memory, marked.reshape(-1))[keys[0]].any()
    assert not recurrent(memory, marked)[keys[0]].any()
    # Missing next states of a flat batch are those of the rollout, also at the end of an episode.
    batch["is_init"][:, 0] = True
    with torch.no_grad():
        flat = recurrent(memory, batch.exclude("next").reshape(-1))
    for key in keys:
        torch.testing.assert_close(flat[key], batch[key].reshape(-1, flat[key].shape[-1]), **TIGHT)


@some_cores
def test_burn_in_in_a_replay_buffer_of_rows(name: str) -> None:
    memory = module(name)
    policy = TensorDictSequential(memory, TensorDictModule(nn.Identity(), ["y"], ["z"]))
    batch = collected(memory).set("row", torch.arange(3)[:, None].expand(3, 11))
    change(memory)
    want = scanned(memory, batch)
    burn_in = BurnInTransform([policy], BURN)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=8, transform=burn_in)
    buffer.extend(batch)
    for _ in range(2):
        sample = buffer.sample()
        assert sample.shape == (8, 7)
        y = recurrent(memory, sample)["y"]
        torch.testing.assert_close(y, want[sample["row"][:, 0]], **TIGHT)
    assert (buffer.storage[:][memory.state_keys[0]] == batch[memory.state_keys[0]]).all()


@some_cores
def test_burn_in_of_slices(name: str) -> None:
    memory = module(name)
    batch = collected(memory, first=0, time=20)
    change(memory)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100, ndim=2),
        sampler=SliceSampler(slice_len=6, end_key=("next", "done")),
        batch_size=30,
    )
    buffer.extend(batch)
    # The sampler adds its flags after the buffer's transforms, so burn-in comes later.
    slices = buffer.sample().reshape(-1, 6)
    unflagged = slices.clone()
    unflagged["is_init"][:, 0] = slices[memory.state_keys[0]][:, 0, -1:] == 0
    out = BurnInTransform([memory], BURN)(slices)
    torch.testing.assert_close(recurrent(memory, out)["y"], scanned(memory, unflagged), **TIGHT)


@some_cores
def test_burn_in_of_windows_with_one_state(name: str) -> None:
    memory = module(name, stored="rows")
    batch = collected(memory, first=0, time=14)
    change(memory)
    want = scanned(memory, batch.reshape(-1, 7))
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100), transform=WindowStates(memory, window=7), batch_size=20
    )
    buffer.append_transform(BurnInTransform([memory], BURN))
    buffer.extend(batch.set("window", torch.arange(6).repeat_interleave(7).reshape(3, 14)))
    sample = buffer.sample()
    torch.testing.assert_close(
        recurrent(memory, sample)["y"], want[sample["window"][:, 0]], **TIGHT
    )


def test_burn_in_with_nested_keys() -> None:
    memory = module("titans")
    batch = collected(memory)
    keys: dict[str, Any] = {"in_key": ("a", "obs"), "out_key": ("a", "y")}
    nested = MemoryModule(memory.core, **keys)
    moved = zip(nested.state_keys, memory.state_keys, strict=True)
    data = batch.select("is_init", ("next", "done")).set(("a", "obs"), batch["obs"])
    for key, old in moved:
        data[key], data["next", *key] = batch[old], batch["next", old]
    change(memory)
    out = BurnInTransform([nested], BURN, out_keys=nested.state_keys)(data)
    with set_recurrent_mode(True):
        torch.testing.assert_close(nested(out)["a", "y"], scanned(memory, batch), **TIGHT)


@some_cores
@pytest.mark.parametrize("stored", ["steps", "rows"])
def test_targets_after_burn_in_equal_a_scan_with_the_new_weights(name: str, stored: str) -> None:
    """The next states of the batch are older than the burn-in, and are replaced."""
    memory = module(name, stored=stored)
    head = TensorDictModule(nn.Linear(OUTPUT, 2), ["y"], ["action_value"])
    net = TensorDictSequential(memory, head, QValueModule(spec=None, action_space="categorical"))
    batch = collected(memory)
    # The next observations continue the rows, and no episode ends in row 1.
    batch["next", "obs"] = torch.cat([batch["obs"][:, 1:], torch.randn(3, 1, INPUT)], 1)
    batch["next", "is_init"] = torch.zeros_like(batch["is_init"])
    batch["next", "terminated"] = batch["next", "done"] = torch.zeros_like(batch["is_init"])
    batch["next", "reward"], batch["action"] = torch.zeros(3, 11, 1), torch.zeros(3, 11).long()
    batch = batch[1:2]
    change(net)
    obs = torch.cat([batch["obs"], batch["next", "obs"][:, -1:]], 1)
    state = batch[:, 0].select(*memory.state_keys)
    start = torch.zeros(1, 12, dtype=torch.bool)
    with torch.no_grad():
        y, _ = memory.forward_state(obs, state, start, recurrent=True)
        want = 0.9 * head(TensorDict({"y": y}, [1, 12]))["action_value"].amax(-1)[:, BURN + 1 :]
    sample = NextStarts()(BurnInTransform([memory], BURN)(batch))
    loss_module = DQNLoss(net, action_space="categorical", delay_value=False)
    loss_module.make_value_estimator(gamma=0.9)
    loss_module(sample)
    error = sample["td_error"].squeeze(-1)
    with set_recurrent_mode(True), torch.no_grad():
        value = net(sample.clone())["action_value"][..., 0]
    torch.testing.assert_close(error, (value - want).square(), **TIGHT)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ffm", "gru", "titans"])
def test_a_gpu_burns_in_the_same(name: str) -> None:
    memory = module(name)
    batch = collected(memory)
    change(memory)
    want = scanned(memory, batch)
    memory.to("cuda")
    out = BurnInTransform([memory], BURN)(batch.to("cuda"))
    y = recurrent(memory, out)["y"].cpu()
    torch.testing.assert_close(y, want, rtol=1e-3, atol=1e-3)
