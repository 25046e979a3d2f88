"""Decision Transformer (Chen et al. 2021, arXiv 2106.01345) with any memory core as its model.

    R[t] = r[t] + r[t+1] + .. up to the episode's end                       (the return to go)
    L    = -E[log pi(a[t] | R[..t], o[..t], a[..t-1], r[..t-1])]

Rows are whole episodes drawn at random, end to end; the memory begins anew with each. To play is to
ask for a return: R[0] = target_return, R[t+1] = R[t] - r[t].

One time step of the model is one of the environment, where the paper has three tokens; and the
likelihood of the actions is learned for continuous ones too, where the paper has their mean.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.offline import Offline
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError
from rlmem.policies.sequence import ReturnPolicy


@register("dt")
class DT(Offline[ReturnPolicy]):
    """DT for any core and any actions; the options are described in `configs/algo/dt.yaml`.

    Raises `UsageError` where an option is out of its range or the dataset does not fit.
    """

    policy_type: ClassVar = ReturnPolicy
    resets: ClassVar = True

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
        super().__init__(
            env,
            policy,
            dataset,
            batch_size=batch_size,
            length=length,
            num_updates=num_updates,
            learning_rate=learning_rate,
            anneal_lr=anneal_lr,
            max_grad_norm=max_grad_norm,
            adam_eps=adam_eps,
        )
        self.episodes = self.dataset.episodes[self.dataset.whole]
        if not len(self.episodes):
            raise UsageError(f"{dataset} holds no episode that was played to its end")
        returns = self.dataset.returns
        best = returns.max().item() if target_return is None else target_return
        policy.target_return.fill_(best)
        policy.return_scale.fill_(returns.abs().max().clamp(min=1e-6))

    def draw(self) -> Int[Tensor, "B P 3"]:
        """Whole episodes, each equally likely."""
        most = -(-self.length // int(self.episodes[:, 2].min()))
        return self.episodes[torch.randint(len(self.episodes), (self.batch_size, most))]
