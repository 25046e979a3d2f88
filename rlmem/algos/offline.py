"""What algorithms on recorded data share: draw rows of episodes, and say what was done in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.algos.dataset import Dataset, Rows, described
from rlmem.algos.descent import Descent
from rlmem.algos.replay_units import laid
from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError, positive
from rlmem.policies.sequence import PAST, RETURN, SequencePolicy

P = TypeVar("P", bound=SequencePolicy)


class Offline(ABC, Generic[P]):
    """Learns `num_updates` times from `batch_size` rows of `length` steps of a dataset.

    Rows are read in one scan; the loss is how unlikely the policy thinks what was done:

        L = -E[log pi(a[t] | what was seen, done and got up to t)]

    A subclass draws the pieces of the rows (`draw`) and says whether the memory begins anew with
    each (`resets`). The environment is not played; its spaces must be those of the data. What was
    drawn depends on torch's generator alone, `seed` is for environments.
    """

    reads_past: ClassVar = True
    resets: ClassVar[bool]

    def __init__(
        self,
        env: VecEnv,
        policy: P,
        dataset: str | None,
        batch_size: int,
        length: int,
        num_updates: int,
        learning_rate: float,
        anneal_lr: bool,
        max_grad_norm: float,
        adam_eps: float,
    ) -> None:
        if dataset is None:
            raise UsageError(
                "algo.dataset must name a folder of recorded steps (rlmem train record=DIR)"
            )
        self.policy: P = policy
        self.device = env.device
        self.batch_size = positive("batch_size", batch_size)
        self.length = positive("length", length)
        self.num_updates = positive("num_updates", num_updates)
        self.steps_per_iteration = batch_size * length * num_updates
        self.learning_rate = learning_rate
        self.anneal_lr = anneal_lr
        self.dataset = Dataset(dataset)
        self._require_spaces(env)
        self.descent = Descent(policy.parameters(), learning_rate, max_grad_norm, adam_eps)

    @abstractmethod
    def draw(self) -> Int[Tensor, "B P 3"]:
        """Pieces of rows: their streams, first entries and steps; each row is at least `length`."""

    def iterate(self, progress: float) -> dict[str, float]:
        """Updates from rows drawn at random; returns the means of the metrics."""
        lr = self.learning_rate * (1 - progress if self.anneal_lr else 1)
        self.descent.learning_rate = lr
        collected = []
        for update in range(self.num_updates):
            loss, metrics = self.loss(self.dataset.read(*laid(self.draw(), self.length)))
            where = f"update {update + 1} of {type(self).__name__}"
            metrics["grad_norm"] = self.descent.step(loss, where)
            collected.append(metrics)
        means = {k: torch.stack([m[k] for m in collected]).mean().item() for k in collected[0]}
        return means | {"learning_rate": lr}

    def loss(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on some rows, and what to report of it."""
        obs, start = self.told(rows)
        obs = {key: leaf.to(self.device) for key, leaf in obs.items()}
        state = self.policy.core.initial_state(len(start))
        dist = self.policy(obs, state, start.to(self.device))
        action = {key: leaf.to(self.device) for key, leaf in rows.action.items()}
        loss = -dist.log_prob(action).mean()
        same = torch.stack([_equal(dist.mode()[key], leaf) for key, leaf in action.items()])
        metrics = {
            "loss": loss,
            "entropy": dist.entropy().mean(),
            "accuracy": same.all(0).float().mean(),
        }
        return loss, {key: metric.detach() for key, metric in metrics.items()}

    def told(self, rows: Rows) -> tuple[Tensors, Tensor]:
        """What the policy reads of rows, and where its memory begins anew."""
        start = rows.first.clone()
        if not self.resets:
            start[:, 1:] = False
        past = {PAST + key: _before(leaf) for key, leaf in rows.action.items()} | {
            PAST + "reward": _before(rows.reward),
            PAST + "done": (rows.first & ~start).long(),
        }
        obs = {key: rows.obs[key] for key in self.policy.task}
        return {**obs, **past, RETURN: rows.return_to_go}, start

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)

    def _require_spaces(self, env: VecEnv) -> None:
        about, folder = self.dataset.about, self.dataset.folder
        wanted = {key: env.observation_space[key] for key in self.policy.task}
        for kind, here in (
            ("observation_space", described(wanted)),
            ("action_space", described(env.action_space)),
        ):
            there = about[kind]
            for key, space in here.items():
                if there.get(key) != space:
                    raise UsageError(
                        f"{folder} does not fit this environment: its {key} is "
                        f"{there.get(key, 'missing')}, and not {space}"
                    )


def _before(leaf: Tensor) -> Tensor:
    """What was one step earlier; of the first step, what nothing may read."""
    return leaf.roll(1, dims=1)


def _equal(one: Tensor, other: Tensor) -> Tensor:
    """Where actions [B, T, ...] are the same."""
    same = one == other
    return same.flatten(2).all(-1) if same.dim() > 2 else same
