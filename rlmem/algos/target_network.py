"""Target networks: a slow copy of a network, that its own targets are made from."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies.normalizer import normalizers

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy that no gradient reaches; it shares the statistics of observations."""
    shared: dict[int, Any] = {id(each): each for each in normalizers(module)}
    return copy.deepcopy(module, shared).requires_grad_(False)


class TargetNetwork:
    """What follows `online`, and how: by a share `tau` at every update, or whole, now and then.

        target <- tau online + (1 - tau) target         (Polyak; Lillicrap et al. 2016, alg. 1)
        target <- online every `period` updates         (Mnih et al. 2015, alg. 1)

    `tau` = 1 with a `period` is the latter; both together are a share at every `period`-th update.
    Buffers are copied as they are, but statistics of observations are always those of `online`. The
    copy itself is `network`.
    """

    def __init__(self, online: nn.Module, tau: float = 1.0, period: int = 1) -> None:
        if not 0 < tau <= 1:
            raise UsageError(f"tau must be above 0 and at most 1, not {tau}")
        if period < 1:
            raise UsageError(f"period must be at least 1, not {period}")
        self.online = online
        self.network: Any = frozen_copy(online)
        self.tau = tau
        self.period = period
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """To be called after every update of the online network."""
        self.updates += 1
        if self.updates % self.period:
            return
        slow: list[Tensor] = list(self.network.parameters())
        fast: list[Tensor] = list(self.online.parameters())
        torch._foreach_lerp_(slow, fast, self.tau)
        for old, new in zip(self.network.buffers(), self.online.buffers(), strict=True):
            old.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"network": dict(self.network.state_dict()), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]
