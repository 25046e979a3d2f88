"""Algorithm Distillation (Laskin et al. 2022, arXiv 2210.14215) with any memory core as its model.

    L = -E[log pi(a[t] | o[..t], a[..t-1], r[..t-1])]

Rows are learning histories: the experience of one environment while an agent learned in it, episode
after episode in order of time, with one memory through all of them. A model that predicts the next
action of an improving agent must improve too: on a new task it gets better from episode to
episode, without a change of its weights.

A row has every `episode_stride`-th episode of its history, so that a row shows progress (the paper
does the same to learn a faster algorithm than the source's).
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
from rlmem.policies.sequence import SequencePolicy


@register("ad", Requirements(SequencePolicy, needs_history=True))
class AD:
    """AD for any core and any actions; `configs/algo/ad.yaml` describes the options.

    The environment only supplies the spaces; it is not stepped, and `seed` is not read. Raises
    `UsageError` for an option out of its range or a dataset of other spaces.
    """

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
        self.policy = policy
        self.device = env.device
        self.batch_size = positive("batch_size", batch_size)
        self.length = positive("length", length)
        self.num_updates = positive("num_updates", num_updates)
        self.steps_per_iteration = batch_size * length * num_updates
        self.dataset = open_dataset(dataset, env, policy)
        self.episodes, left = chains(
            self.dataset.episodes, positive("episode_stride", episode_stride)
        )
        self.begins = (left >= length).nonzero().squeeze(1)
        if not len(self.begins):
            raise UsageError(
                f"the longest history of {dataset} has {int(left.max())} steps in every "
                f"{episode_stride}. episode, which is less than length ({length})"
            )
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
            loss, metrics = action_loss(self.policy, rows, self.device, reset_memory=False)
            metrics["grad_norm"] = self.optimizer.step(loss, f"update {update} of AD", rows)
            updates.append(metrics)
        self.optimizer.check()
        return {**mean_metrics(updates), "learning_rate": learning_rate}

    def draw(self) -> Int[Tensor, "B P 3"]:
        """Histories from a random episode on, with at least `length` steps in each row."""
        begin = self.begins[torch.randint(len(self.begins), (self.batch_size,))]
        most = -(-self.length // int(self.episodes[:, 2].min()))
        # Pieces beyond the end of a full row are of another history; they are not read.
        piece = (begin[:, None] + torch.arange(most)).clamp(max=len(self.episodes) - 1)
        return self.episodes[piece]

    def state_dict(self) -> dict[str, Any]:
        # No episode has begun: there is no place to go on from.
        return {"optimizer": self.optimizer.state_dict(), "place": {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


def chains(
    episodes: Int[Tensor, "E 3"], stride: int
) -> tuple[Int[Tensor, "E 3"], Int[Tensor, "E"]]:
    """Episodes sorted into chains: every `stride`-th episode of a stream is one chain.

    Returns the episodes, and the number of steps from each one to the end of its chain.
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
