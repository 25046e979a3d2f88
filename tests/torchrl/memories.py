"""Shared code of the tests of `MemoryModule`: modules, rows of observations, collected data."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.modules import set_recurrent_mode

from rlmem.torchrl import MemoryModule
from tests.cores.common import INPUT, make, some_starts

KEYS = {"in_key": "obs", "out_key": "y"}


def module(core: str, **options: Any) -> MemoryModule:
    """A module whose parameters differ from their initial values."""
    return MemoryModule(make(core), **{**KEYS, **options})


def rows(time: int = 9) -> tuple[Tensor, Tensor]:
    """Observations [B, time, I] and starts [B, time, 1], at each row's first step and others."""
    start = some_starts("cpu", time)
    start[:, 0] = True
    return torch.randn(*start.shape, INPUT), start.unsqueeze(-1)


def data(memory: MemoryModule, obs: Tensor, start: Tensor, state: TensorDictBase) -> TensorDict:
    """The module's inputs as a batch, with the leading dimensions of `obs`."""
    leaves = {"obs": obs, "is_init": start, **state.select(*memory.state_keys)}
    return TensorDict(leaves, obs.shape[:-1])


@torch.no_grad()
def collect(memory: MemoryModule, obs: Tensor, start: Tensor) -> TensorDict:
    """The data a collector stores for rows [B, T]; states are zero at episode starts."""
    state = memory.state_spec.expand(len(obs)).zero()
    steps = []
    for obs_t, start_t in zip(obs.unbind(1), start.unbind(1), strict=True):
        state = state.apply(lambda leaf, reset=start_t: leaf.masked_fill(reset, 0))
        step = memory(data(memory, obs_t, start_t, state))
        steps.append(step)
        state = step["next"]
    return torch.stack(steps, dim=1)


def recurrent(memory: MemoryModule, batch: TensorDictBase) -> TensorDictBase:
    """The module's result in recurrent mode, from the observations and states of the batch."""
    with set_recurrent_mode(True):
        return memory(batch.select(*memory.in_keys, *memory.out_keys[1:], strict=False))
