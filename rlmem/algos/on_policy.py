"""What on-policy algorithms share: play rows, then epochs of minibatches over them.

A row is what one environment did in `num_steps` steps: episodes end to end, a start flag where each
begins, and the memory before the row. It is read in one scan: no splitting, padding or loop over
time; minibatches are over environments. Truncated episodes bootstrap from their final observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rlmem.algos.descent import Descent
from rlmem.algos.episodes import summary
from rlmem.algos.rollout import Collector, Rollout
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, positive
from rlmem.policies import ActorCritic, QPolicy

P = TypeVar("P", ActorCritic, QPolicy)
Metrics = dict[str, Tensor]


class OnPolicy(ABC, Generic[P]):
    """Plays `num_steps` steps in every environment, then learns from the rows and forgets them.

    A subclass says in `update` what the rows are to teach, and calls `descend` with the loss.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: P,
        seed: list[int],
        num_steps: int,
        num_epochs: int,
        num_minibatches: int,
        learning_rate: float,
        anneal_lr: bool,
        max_grad_norm: float,
        adam_eps: float,
    ) -> None:
        if env.num_envs % positive("num_minibatches", num_minibatches):
            raise UsageError(
                f"num_minibatches ({num_minibatches}) must divide num_envs ({env.num_envs}): "
                "a minibatch is a set of whole rows"
            )
        self.policy: P = policy
        self.steps_per_iteration = env.num_envs * positive("num_steps", num_steps)
        self.num_epochs = positive("num_epochs", num_epochs)
        self.num_minibatches = num_minibatches
        self.learning_rate = learning_rate
        self.anneal_lr = anneal_lr
        self.collector = Collector(env, policy, num_steps, seed)
        self.descent = Descent(
            policy.parameters(),
            learning_rate,
            max_grad_norm,
            adam_eps,
            apart=policy.critic_parameters(),
        )

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""

    def enough(self, metrics: Metrics) -> bool:
        """Whether an epoch with these mean metrics is to be a rollout's last."""
        return False

    def iterate(self, progress: float) -> dict[str, float]:
        """One rollout and the epochs of updates on it."""
        lr = self.learning_rate * (1 - progress if self.anneal_lr else 1)
        self.descent.learning_rate = lr
        rollout = self.collector.collect()
        metrics = self.update(rollout) | {"learning_rate": lr}
        return metrics | summary(*self.collector.episodes())

    def descend(
        self, num_rows: int, loss: Callable[[Tensor], tuple[Tensor, Metrics]]
    ) -> dict[str, float]:
        """Epochs of minibatches, each the loss on a set of rows; returns the mean of the metrics.

        Raises `NonFiniteLoss`.
        """
        collected: list[Metrics] = []
        epochs = 0
        for epoch in range(self.num_epochs):
            order = torch.randperm(num_rows, device=self.collector.env.device)
            first = len(collected)
            for rows in order.chunk(self.num_minibatches):
                value, metrics = loss(rows)
                where = f"epoch {epoch + 1} of {type(self).__name__}"
                metrics["grad_norm"] = self.descent.step(value, where)
                collected.append(metrics)
            epochs = epoch + 1
            if self.enough(means(collected[first:])):
                break
        return {k: m.item() for k, m in means(collected).items()} | {"epochs": float(epochs)}

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)


def means(collected: list[Metrics]) -> Metrics:
    """The mean of each metric."""
    return {key: torch.stack([each[key] for each in collected]).mean() for key in collected[0]}
