"""Rows of experience [B, T]: one per environment, packed end to end, with a start flag per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem import tree
from rlmem.algos.episodes import EpisodeSums
from rlmem.envs.base import Tensors, VecEnv
from rlmem.policies import Decision


@dataclass
class Rollout:
    """What N environments did in T steps, and what the policy thought of it then.

    `state` is the memory before the row; `next_value[b, t]` is the value of the observation that
    really followed step t: of the episode's final one where it was truncated, and of whatever
    (nothing may read it) where it terminated.
    """

    obs: Tensors
    action: Tensors
    log_prob: Float[Tensor, "B T"]
    value: Float[Tensor, "B T"]
    next_value: Float[Tensor, "B T"]
    reward: Float[Tensor, "B T"]
    start: Bool[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    state: Any

    def rows(self, index: Tensor) -> tuple[Tensors, Any, Tensor]:
        """What the policy reads of some rows: observations, state before the row, starts."""
        obs = {key: leaf[index] for key, leaf in self.obs.items()}
        return obs, tree.map(lambda leaf: leaf[index], self.state), self.start[index]


@runtime_checkable
class Decider(Protocol):
    """What plays on-policy: it says what it thinks of where it is."""

    def initial_state(self, batch_size: int) -> Any: ...

    def decide(self, obs: Tensors, state: Any, start: Tensor) -> Decision: ...

    def value(self, obs: Tensors, state: Any, start: Tensor) -> Tensor: ...


class Collector:
    """Plays a policy in N environments and fills one `Rollout` of T steps again and again.

    The tensors of the rollout are allocated once and overwritten by the next `collect`.
    """

    def __init__(self, env: VecEnv, policy: Decider, num_steps: int, seed: list[int]) -> None:
        self.env = env
        self.policy = policy
        self.num_steps = num_steps
        self.obs = env.reset(seed)
        self.start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self.state = policy.initial_state(env.num_envs)
        self.sums = EpisodeSums(env.num_envs, env.device)
        self.rollout: Rollout | None = None

    @torch.no_grad()
    def collect(self) -> Rollout:
        """T steps of experience."""
        first_state = self.state
        never = torch.zeros_like(self.start)
        out = self.rollout
        for t in range(self.num_steps):
            act = self.policy.decide(self.obs, self.state, self.start)
            step = self.env.step(act.action)
            if out is None:
                out = self.rollout = self._allocate(act.action, step.reward)
            _write(out.obs, self.obs, t)
            _write(out.action, act.action, t)
            out.log_prob[:, t] = act.log_prob
            out.value[:, t] = act.value
            out.reward[:, t] = step.reward
            out.start[:, t] = self.start
            out.terminated[:, t] = step.terminated
            out.truncated[:, t] = step.truncated
            self.obs, self.state = step.obs, act.state
            self.start = step.starts
            if step.truncated.any():
                out.next_value[:, t] = self.policy.value(step.final_obs, act.state, never)
        assert out is not None
        out.state = first_state
        last = self.policy.value(self.obs, self.state, self.start)
        following = torch.cat([out.value[:, 1:], last[:, None]], dim=1)
        torch.where(out.truncated, out.next_value, following, out=out.next_value)
        return out

    def episodes(self) -> tuple[Tensor, Tensor]:
        """Returns and lengths of the episodes (trials) that ended in the last rollout."""
        out = self.rollout
        assert out is not None
        return self.sums.ended(out.reward, out.start, self.start)

    def _allocate(self, action: Tensors, reward: Tensor) -> Rollout:
        def rows(leaf: Tensor) -> Tensor:
            return leaf.new_zeros(leaf.shape[0], self.num_steps, *leaf.shape[1:])

        def scalar() -> Tensor:
            return rows(reward)

        def flag() -> Tensor:
            return rows(self.start)

        return Rollout(
            obs={key: rows(leaf) for key, leaf in self.obs.items()},
            action={key: rows(leaf) for key, leaf in action.items()},
            log_prob=scalar(),
            value=scalar(),
            next_value=scalar(),
            reward=scalar(),
            start=flag(),
            terminated=flag(),
            truncated=flag(),
            state=self.state,
        )


def _write(buffer: Tensors, leaves: Tensors, t: int) -> None:
    for key, leaf in leaves.items():
        buffer[key][:, t] = leaf
