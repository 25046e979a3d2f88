"""Gradient steps of every algorithm: Adam with clipping and annealing, and means of metrics."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rlmem.algos.base import NonFiniteLoss
from rlmem.algos.nonfinite import Experience
from rlmem.errors import UsageError
from rlmem.ranks import reduce

# Scalar tensors by name. They stay on the device until the end of an iteration.
Metrics = dict[str, Tensor]


# Updates between two checks at most; each keeps its batch.
MOST_UNCHECKED = 32


class Update(NamedTuple):
    """One update: its loss, the gradient's norm, its place in words, and its batch."""

    loss: Tensor
    norm: Tensor
    where: str
    batch: Experience | None

    def error(self) -> NonFiniteLoss:
        """The error of an update whose gradient is not finite."""
        loss, norm = self.loss.item(), self.norm.item()
        return NonFiniteLoss(
            f"the loss is {loss:g} with a gradient of norm {norm:g} in {self.where}", self.batch
        )


class PlainAdam(Adam):
    """torch's Adam without the wrappers that hide its methods from `torch.compile`.

    They import torch's compiler at the first call, which takes longer than all other imports of a
    training. The numbers are the same. A step changes nothing if `found_inf`, on the device, is 1.
    """

    found_inf: Tensor | None = None

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(Adam.step))


class ClippedAdam:
    """Adam (Kingma and Ba 2015) with gradients clipped to a norm of `max_grad_norm`.

    Gradients are means over all ranks, so the weights of all ranks stay equal.

    `separate_group` is a subset of `parameters`. Its gradient is clipped separately, because its
    norm is unrelated to that of the others. Raises `UsageError` for a step size or norm <= 0.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        max_grad_norm: float,
        adam_eps: float = 1e-8,
        anneal_lr: bool = False,
        separate_group: Iterable[nn.Parameter] = (),
    ) -> None:
        if learning_rate <= 0 or max_grad_norm <= 0:
            raise UsageError(
                "learning_rate and max_grad_norm must be above 0, "
                f"not {learning_rate} and {max_grad_norm}"
            )
        whole, second = list(parameters), list(separate_group)
        separate = set(map(id, second))
        first = [parameter for parameter in whole if id(parameter) not in separate]
        self.groups = [group for group in (first, second) if group]
        self.initial_learning_rate = learning_rate
        self.anneal_lr = anneal_lr
        self.max_grad_norm = max_grad_norm
        self.unchecked: list[Update] = []
        self.adam = PlainAdam(whole, lr=learning_rate, eps=adam_eps, fused=True)

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self.adam.param_groups[0]["lr"]

    def anneal(self, progress: float) -> float:
        """Set the step size for this fraction (0 to 1) of the training, and return it.

        It falls linearly to 0 with `anneal_lr`, and is constant otherwise.
        """
        learning_rate = self.initial_learning_rate * (1 - progress if self.anneal_lr else 1)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def step(self, loss: Tensor, where: str, batch: Experience | None = None) -> Tensor:
        """One step along the gradient of `loss`; returns the gradient's norm before clipping.

        Raises `NonFiniteLoss` with the place `where`, before any weight changes; on other devices
        than the CPU `check` does. It names the first input of `batch` that is not finite, if there
        is one.
        """
        for parameter in (each for group in self.groups for each in group):
            parameter.grad = None
        # Gradients have the precision of the forward pass; autocast would round more of them.
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        grads = [[p.grad for p in group if p.grad is not None] for group in self.groups]
        reduce.average_gradients([each for group in grads for each in group])
        norms = [nn.utils.get_total_norm(each) for each in grads]
        norm = torch.stack(norms).norm() if len(norms) > 1 else norms[0]
        update = Update(loss.detach(), norm, where, batch)
        if norm.device.type == "cpu":
            if not torch.isfinite(norm):
                raise update.error()
        else:
            norms = self._defer(update, norms)
        # After the check: gradients that are not finite tell their layer.
        for group, each in zip(self.groups, norms, strict=True):
            nn.utils.clip_grads_with_norm_(group, self.max_grad_norm, each)
        self.adam.step()
        return norm

    def check(self) -> None:
        """Raise `NonFiniteLoss` if a gradient since the last check was not finite.

        To be called after the updates of an iteration, and before their results are used outside
        of the weights. On a CPU `step` itself has raised. On other devices a read would wait for
        the device: there the updates from the first such gradient on change nothing, until this
        check reads the norms of all of them at once.
        """
        if not self.unchecked:
            return
        unchecked, self.unchecked = self.unchecked, []
        norms = torch.stack([each.norm for each in unchecked]).tolist()
        bad = [each for each, norm in zip(unchecked, norms, strict=True) if not isfinite(norm)]
        if bad:
            self.adam.found_inf = None
            raise bad[0].error()

    def _defer(self, update: Update, norms: list[Tensor]) -> list[Tensor]:
        """Let Adam do nothing, on the device, if this gradient or an earlier one is not finite.

        Returns the norms for clipping: without any, gradients that are not finite stay as they are.
        """
        if len(self.unchecked) >= MOST_UNCHECKED:
            self.check()
        self.unchecked.append(update)
        finite = torch.isfinite(update.norm)
        failed = (~finite).float()
        before = self.adam.found_inf
        self.adam.found_inf = failed if before is None else torch.maximum(before, failed)
        return [torch.where(finite, each, 0) for each in norms]

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; a `UsageError` if it is of other parameters."""
        self.adam.load_state_dict(state)
        if not self.anneal_lr:
            self.anneal(0.0)  # the step size is an option, and may have changed
        for parameter, moments in self.adam.state.items():
            if moments["exp_avg"].shape != parameter.shape:
                raise UsageError(
                    f"the optimizer's state has a moment of shape {list(moments['exp_avg'].shape)} "
                    f"for a parameter of shape {list(parameter.shape)}"
                )


def mean_metrics(updates: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each metric over some updates; no metrics without updates."""
    if not any(updates):
        return {}
    means = [torch.stack([each[key] for each in updates]).mean() for key in updates[0]]
    # One read for all of them: it waits for the device.
    return dict(zip(updates[0], torch.stack(means).tolist(), strict=True))
