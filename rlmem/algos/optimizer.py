"""Gradient steps of every algorithm: Adam with clipping and annealing, and means of metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rlmem.algos.base import NonFiniteLoss
from rlmem.algos.nonfinite import Experience
from rlmem.compiled import Call, Compiler
from rlmem.errors import UsageError
from rlmem.ranks import group, reduce

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
        self.groups = [parameters for parameters in (first, second) if parameters]
        self.initial_learning_rate = learning_rate
        self.anneal_lr = anneal_lr
        self.max_grad_norm = max_grad_norm
        self.unchecked: list[Update] = []
        self.learning_rate = learning_rate
        self.adam = PlainAdam(whole, lr=learning_rate, eps=adam_eps, fused=True)
        self.forward: Callable[..., Callable[..., Any]] = _unchanged
        self.captured: Call | None = None
        # On a device: the step size, and whether a gradient since the last check was not finite.
        self.rate: Tensor | None = None
        self.failed: Tensor | None = None
        if whole[0].device.type != "cpu":
            self.stay_on_device()

    def stay_on_device(self) -> None:
        """From now on, no step reads a value: the step size is a tensor, and errors come later."""
        device = self.groups[0][0].device
        self.rate = torch.zeros((), device=device)
        self.failed = self.adam.found_inf = torch.zeros((), device=device)
        self._set_rate(self.learning_rate)

    def compile(self, compiler: Compiler) -> None:
        """Run `minimize` with `compiler` from now on, if it can be."""
        self.forward = compiler.forward
        obstacle = "ranks average their gradients" if group.several() else None
        self.captured = compiler.call("the minibatch", obstacle)
        if self.captured and self.rate is None:
            self.stay_on_device()

    def anneal(self, progress: float) -> float:
        """Set the step size for this fraction (0 to 1) of the training, and return it.

        It falls linearly to 0 with `anneal_lr`, and is constant otherwise.
        """
        self._set_rate(self.initial_learning_rate * (1 - progress if self.anneal_lr else 1))
        return self.learning_rate

    def minimize(
        self,
        loss_of: Callable[..., tuple[Tensor, Metrics]],
        given: tuple[Any, ...],
        where: str,
        batch: Experience | None = None,
    ) -> Metrics:
        """One step along the gradient of a loss, the first result of `loss_of(*given)`.

        Returns its metrics, the second result, with `grad_norm`. `where` and `batch` as in `step`.
        Arguments that are no tensors must be the same objects in each call.
        """
        if self.captured is None:
            loss, metrics = self.forward(loss_of)(*given)
            return {**metrics, "grad_norm": self.step(loss, where, batch)}
        self._make_room()
        loss, norm, metrics = self.captured(self._whole_step, loss_of, *given)
        self.unchecked.append(Update(loss, norm, where, batch))
        return {**metrics, "grad_norm": norm}

    def step(self, loss: Tensor, where: str, batch: Experience | None = None) -> Tensor:
        """One step along the gradient of `loss`; returns the gradient's norm before clipping.

        Raises `NonFiniteLoss` with the place `where`, before any weight changes; on other devices
        than the CPU `check` does. It names the first input of `batch` that is not finite, if there
        is one.
        """
        if self.failed is not None:
            self._make_room()
        norm, norms = self._backward(loss)
        update = Update(loss.detach(), norm, where, batch)
        if self.failed is not None:
            self.unchecked.append(update)
            norms = self._without_failed(norm, norms)
        elif not torch.isfinite(norm):
            raise update.error()
        self._descend(norms)
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
            assert self.failed is not None
            self.failed.zero_()
            raise bad[0].error()

    def _whole_step(
        self, loss_of: Callable[..., tuple[Tensor, Metrics]], *given: Any
    ) -> tuple[Tensor, Tensor, Metrics]:
        """Loss, gradients and new weights without a wait for the device: loss, norm, metrics."""
        loss, metrics = loss_of(*given)
        norm, norms = self._backward(loss)
        self._descend(self._without_failed(norm, norms))
        return loss.detach(), norm, metrics

    def _backward(self, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The norm of all gradients of a loss, and that of each group."""
        for parameter in (each for parameters in self.groups for each in parameters):
            parameter.grad = None
        # Gradients have the precision of the forward pass; autocast would round more of them.
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        grads = [
            [each.grad for each in parameters if each.grad is not None]
            for parameters in self.groups
        ]
        reduce.average_gradients([each for part in grads for each in part])
        norms = [nn.utils.get_total_norm(each) for each in grads]
        return torch.stack(norms).norm() if len(norms) > 1 else norms[0], norms

    def _descend(self, norms: list[Tensor]) -> None:
        """Clip the gradients of each group, and change the weights."""
        # After the check: gradients that are not finite tell their layer.
        for parameters, each in zip(self.groups, norms, strict=True):
            nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, each)
        self.adam.step()

    def _make_room(self) -> None:
        """Check the last updates if there are many: each keeps its batch."""
        if len(self.unchecked) >= MOST_UNCHECKED:
            self.check()

    def _without_failed(self, norm: Tensor, norms: list[Tensor]) -> list[Tensor]:
        """Let Adam do nothing, on the device, if this gradient or an earlier one is not finite.

        Returns the norms for clipping: without any, gradients that are not finite stay as they are.
        """
        finite = torch.isfinite(norm)
        assert self.failed is not None
        torch.maximum(self.failed, (~finite).float(), out=self.failed)
        return [torch.where(finite, each, 0) for each in norms]

    def _set_rate(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        if self.rate is not None:
            self.rate.fill_(learning_rate)
        for parameters in self.adam.param_groups:
            parameters["lr"] = learning_rate if self.rate is None else self.rate
            parameters["capturable"] = self.rate is not None

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run, the same for every device."""
        state = self.adam.state_dict()
        plain = {"lr": self.learning_rate, "capturable": False}
        return {**state, "param_groups": [{**each, **plain} for each in state["param_groups"]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; a `UsageError` if it is of other parameters."""
        self.adam.load_state_dict(state)
        if self.captured:
            self.captured.forget()  # the moments have other addresses
        self._set_rate(float(self.adam.param_groups[0]["lr"]))
        if not self.anneal_lr:
            self.anneal(0.0)  # the step size is an option, and may have changed
        for parameter, moments in self.adam.state.items():
            if moments["exp_avg"].shape != parameter.shape:
                raise UsageError(
                    f"the optimizer's state has a moment of shape {list(moments['exp_avg'].shape)} "
                    f"for a parameter of shape {list(parameter.shape)}"
                )


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def mean_metrics(updates: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each metric over some updates; no metrics without updates."""
    if not any(updates):
        return {}
    means = [torch.stack([each[key] for each in updates]).mean() for key in updates[0]]
    # One read for all of them: it waits for the device.
    return dict(zip(updates[0], torch.stack(means).tolist(), strict=True))
