"""Algorithm Distillation (Laskin et al. 2022, arXiv 2210.14215) with any memory core as its model.

    L = -E[log pi(a[t] | o[..t], a[..t-1], r[..t-1])]

The rows are learning histories: what one environment did while an agent learned in it, episode
after episode in the order of time, and the memory goes through all of them. Who predicts
the next action of an agent that gets better has to get better too: on a new task the model improves
from episode to episode, without any change of its weights.

A row has every `episode_stride`-th episode of its history, so that learning is seen to go on within
a row (the paper does the same to learn a faster algorithm than the source's).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.offline import Offline
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, positive
from rlmem.policies.sequence import SequencePolicy


@register("ad")
class AD(Offline[SequencePolicy]):
    """AD for any core and any actions; the options are described in `configs/algo/ad.yaml`.

    Raises `UsageError` where an option is out of its range or the dataset does not fit.
    """

    policy_type: ClassVar = SequencePolicy
    resets: ClassVar = False

    def __init__(
        self,
        env: VecEnv,
        policy: SequencePolicy,
        seed: list[int],
        dataset: str | None = None,
        episode_stride: int = 1,
        batch_size: int = 32,
        length: int = 256,
        num_updates: int = 10,
        learning_rate: float = 1e-3,
        anneal_lr: bool = True,
        max_grad_norm: float = 1.0,
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
        self.episodes, left = chains(
            self.dataset.episodes, positive("episode_stride", episode_stride)
        )
        self.begins = (left >= length).nonzero().squeeze(1)
        if not len(self.begins):
            raise UsageError(
                f"the longest history of {dataset} has {int(left.max())} steps in every "
                f"{episode_stride}. episode, which is less than length ({length})"
            )

    def draw(self) -> Int[Tensor, "B P 3"]:
        """Histories from any episode on, each equally likely."""
        begin = self.begins[torch.randint(len(self.begins), (self.batch_size,))]
        most = -(-self.length // int(self.episodes[:, 2].min()))
        # Where a row is full before that, what comes then is of another history and not read.
        piece = (begin[:, None] + torch.arange(most)).clamp(max=len(self.episodes) - 1)
        return self.episodes[piece]


def chains(
    episodes: Int[Tensor, "E 3"], stride: int
) -> tuple[Int[Tensor, "E 3"], Int[Tensor, "E"]]:
    """Episodes in such an order that every `stride`-th of each stream are neighbours.

    Returns them, and the steps from each on to the end of its chain.
    """
    stream = episodes[:, 0].contiguous()
    index = torch.arange(len(stream))
    index = index - torch.searchsorted(stream, stream)
    chain = stream * stride + index % stride
    order = torch.argsort(chain, stable=True)
    chain, episodes = chain[order], episodes[order]
    total = episodes[:, 2].cumsum(0)
    end = torch.searchsorted(chain, chain, right=True) - 1
    return episodes, total[end] - total + episodes[:, 2]
