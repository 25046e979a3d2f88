"""Decision Transformer (Chen et al. 2021, arXiv 2106.01345) with any memory core as its model.

    R[t] = r[t] + r[t+1] + .. up to the episode's end                       (the return to go)
    L    = -E[log pi(a[t] | R[..t], o[..t], a[..t-1], r[..t-1])]

Rows are random whole episodes, end to end; the memory is reset at the start of each. To act, the
agent asks for a return: R[0] = target_return, R[t+1] = R[t] - r[t].

One time step of the model is one of the environment; the paper has three tokens. The loss is the
likelihood of the actions, also of continuous ones; the paper has the squared error of their mean.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.algos.action_prediction import action_loss, fit_statistics, open_dataset
from rlmem.algos.base import Requirements, register
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.data.segments import pack
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, positive
from rlmem.policies.sequence import ReturnPolicy


@register("dt", Requirements(ReturnPolicy, needs_history=True))
class DT:
    """DT for any core and any actions; `configs/algo/dt.yaml` describes the options.

    The environment only supplies the spaces; it is not stepped, and `seed` is not read. Raises
    `UsageError` for an option out of its range or a dataset of other spaces.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: ReturnPolicy,
        seed: list[int],
        dataset: str | None = None,
        target_return: float | None = None,
        batch_size: int = 64,
        length: int = 64,
        num_updates: int = 10,
        learning_rate: float = 1e-3,
        anneal_lr: bool = True,
        max_grad_norm: float = 0.25,
        adam_eps: float = 1e-8,
    ) -> None:
        self.policy = policy
        self.device = env.device
        self.batch_size = positive("batch_size", batch_size)
        self.length = positive("length", length)
        self.num_updates = positive("num_updates", num_updates)
        self.steps_per_iteration = batch_size * length * num_updates
        self.dataset = open_dataset(dataset, env, policy)
        self.episodes = self.dataset.episodes[self.dataset.whole]
        if not len(self.episodes):
            raise UsageError(f"{dataset} has no complete episode")
        returns = self.dataset.returns
        self.target_return = returns.max().item() if target_return is None else target_return
        policy.target_return.fill_(self.target_return)
        policy.return_scale.fill_(returns.abs().max().clamp(min=1e-6))
        fit_statistics(policy, self.dataset, env.device)
        self.optimizer = ClippedAdam(
            policy.parameters(), learning_rate, max_grad_norm, adam_eps, anneal_lr
        )

    def iterate(self, progress: float) -> dict[str, float]:
        """`num_updates` updates, each on a batch of rows."""
        learning_rate = self.optimizer.anneal(progress)
        updates: list[Metrics] = []
        for update in range(1, self.num_updates + 1):
            rows = self.dataset.read(*pack(self.draw(), self.length))
            loss, metrics = action_loss(self.policy, rows, self.device, reset_memory=True)
            metrics["grad_norm"] = self.optimizer.step(loss, f"update {update} of DT", rows)
            updates.append(metrics)
        self.optimizer.check()
        return {**mean_metrics(updates), "learning_rate": learning_rate}

    def draw(self) -> Int[Tensor, "B P 3"]:
        """Random complete episodes for each row, with at least `length` steps in all."""
        most = -(-self.length // int(self.episodes[:, 2].min()))
        return self.episodes[torch.randint(len(self.episodes), (self.batch_size, most))]

    def state_dict(self) -> dict[str, Any]:
        # No episode has begun: there is no place to go on from.
        return {"optimizer": self.optimizer.state_dict(), "place": {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        # Option and dataset may have changed since the weights were saved; `return_scale`, the unit
        # that the policy was trained with, stays.
        self.policy.target_return.fill_(self.target_return)
