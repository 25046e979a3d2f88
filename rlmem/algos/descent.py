"""The step that every algorithm ends with: down the gradient, and never to where nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlmem.algos.base import NonFiniteLoss
from rlmem.errors import UsageError


class Descent:
    """Adam (Kingma and Ba 2015) on some parameters, with clipped gradients.

    The gradient of the parameters `apart`, which are some of them, is clipped on its own: its size
    says nothing of the others'.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        max_grad_norm: float,
        adam_eps: float = 1e-8,
        apart: Iterable[nn.Parameter] = (),
    ) -> None:
        if learning_rate <= 0 or max_grad_norm <= 0:
            raise UsageError(
                "learning_rate and max_grad_norm must be above 0, "
                f"not {learning_rate} and {max_grad_norm}"
            )
        whole, second = list(parameters), list(apart)
        taken = set(map(id, second))
        first = [parameter for parameter in whole if id(parameter) not in taken]
        self.parts = [part for part in (first, second) if part]
        self.max_grad_norm = max_grad_norm
        self.optimizer = torch.optim.Adam(whole, lr=learning_rate, eps=adam_eps, fused=True)

    @property
    def learning_rate(self) -> float:
        """The step size, which may be set anew before any step."""
        return self.optimizer.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def step(self, loss: Tensor, where: str) -> Tensor:
        """One step of the optimiser; returns the gradient's norm before it was clipped.

        Raises `NonFiniteLoss`, which says `where`; the weights are then as they were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms = [nn.utils.clip_grad_norm_(part, self.max_grad_norm) for part in self.parts]
        norm = torch.stack(norms).norm() if len(norms) > 1 else norms[0]
        if not torch.isfinite(norm):
            raise NonFiniteLoss(
                f"the loss is {loss.item():g} with a gradient of norm {norm.item():g} in {where}"
            )
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
