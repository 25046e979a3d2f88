"""What off-policy algorithms share: play into a replay, learn from rows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rlmem.algos.replay import Replay
from rlmem.algos.sequences import Sequences
from rlmem.envs.base import VecEnv
from rlmem.errors import at_least, positive
from rlmem.policies import Policy

P = TypeVar("P", bound=Policy)


class OffPolicy(ABC, Generic[P]):
    """Plays `num_steps` steps in every environment, then learns `num_updates` times.

    A subclass learns from one batch (`learn`) and keeps what else it needs in `state_dict`.
    Nothing is learned before `learning_starts` steps were played; `explore` may choose what is
    played until then.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: P,
        seed: list[int],
        num_steps: int,
        num_updates: int,
        learning_starts: int,
        replay: Mapping[str, Any],
    ) -> None:
        self.env = env
        self.policy = policy
        self.num_steps = positive("num_steps", num_steps)
        self.num_updates = positive("num_updates", num_updates)
        self.learning_starts = at_least("learning_starts", learning_starts, 0)
        self.steps_per_iteration = env.num_envs * num_steps
        self.obs = env.reset(seed)
        self.start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self.state = policy.initial_state(env.num_envs)
        self.replay = Replay(env, policy, **replay)
        self.played = 0
        self.updates = 0
        self.progress = 0.0

    @abstractmethod
    def learn(self, batch: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """One update from a batch: metrics, and the priorities [B] that its rows have now."""

    def explore(self) -> tuple[dict[str, Tensor], Any]:
        """The actions to play next, and the memory after them."""
        return self.policy.act(self.obs, self.state, self.start)

    def iterate(self, progress: float) -> dict[str, float]:
        """Play, then learn; returns the means of the metrics."""
        self.progress = progress
        self.play()
        metrics = self.replay.episode_metrics()
        if self.played < self.learning_starts or not self.replay.ready:
            return metrics
        collected = []
        for _ in range(self.num_updates):
            batch = self.replay.sample(progress)
            found, priority = self.learn(batch)
            self.replay.update_priorities(batch.unit, priority)
            self.updates += 1
            collected.append(found)
        means = {k: torch.stack([m[k] for m in collected]).mean().item() for k in collected[0]}
        return metrics | means

    @torch.no_grad()
    def play(self) -> None:
        """`num_steps` steps in every environment, into the replay."""
        for _ in range(self.num_steps):
            action, state = self.explore()
            step = self.env.step(action)
            self.replay.add(self.obs, self.start, self.state, action, step)
            self.obs, self.start, self.state = step.obs, step.starts, state
        self.played += self.steps_per_iteration

    def state_dict(self) -> dict[str, Any]:
        return {"replay": self.replay.state_dict(), "played": self.played, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])
        self.played, self.updates = state["played"], state["updates"]
