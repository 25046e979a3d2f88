"""On-policy experience: rows [B, T] of consecutive steps, one row per environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem import tree
from rlmem.compiled import Compiler, Steps, obstacle
from rlmem.data.final_values import FinalValues
from rlmem.data.place import load_place, save_place
from rlmem.data.returns import DiscountedReturns, EpisodeSums, summary
from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError, positive
from rlmem.policies import PolicyStep
from rlmem.policies.normalizer import RunningMoments, normalizers
from rlmem.ranks import group


@dataclass
class Rollout:
    """T steps of N environments, with the policy's log-probabilities and values at that time.

    A row spans several episodes; `start` marks the first step of each. `state` is the memory before
    the row. `next_value[b, t]` is the value of the observation after step t: of the episode's final
    observation if step t was truncated, and undefined (never read) if it terminated. `last_obs` are
    the observations [B, ...] after the last step.
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
    last_obs: Tensors = field(default_factory=dict)

    def rows(self, index: Tensor) -> tuple[Tensors, Any, Tensor]:
        """The policy's inputs for some rows: observations, state before the row, starts."""
        obs = {key: leaf[index] for key, leaf in self.obs.items()}
        return obs, tree.map(lambda leaf: leaf[index], self.state), self.start[index]

    def actions(self, index: Tensor) -> Tensors:
        """The actions of some rows."""
        return {key: leaf[index] for key, leaf in self.action.items()}


def minibatches(rows: Float[Tensor, "B T"], count: int) -> Sequence[Tensor]:
    """The indices of the B rows in random order, split into `count` minibatches."""
    return torch.randperm(len(rows), device=rows.device).chunk(count)


@runtime_checkable
class OnPolicyAgent(Protocol):
    """A policy that returns log-probabilities and values with its actions."""

    def initial_state(self, batch_size: int) -> Any: ...

    def act_with_value(self, obs: Tensors, state: Any, start: Tensor) -> PolicyStep: ...

    def value(self, obs: Tensors, state: Any, start: Tensor) -> Tensor: ...


class Collector:
    """Runs a policy in N environments and fills one `Rollout` of T steps per call.

    The rollout's tensors are allocated once; the next `collect` overwrites them. `steps` are those
    of all ranks.
    """

    def __init__(self, env: VecEnv, policy: OnPolicyAgent, num_steps: int, seed: list[int]) -> None:
        self.env = env
        self.policy = policy
        self.num_steps = positive("num_steps", num_steps)
        self.steps = group.count() * env.num_envs * num_steps
        self.obs = env.reset(seed)
        self.start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self.state = policy.initial_state(env.num_envs)
        self.sums = EpisodeSums(env.num_envs, env.device)
        self.rollout: Rollout | None = None
        self.act = policy.act_with_value
        self.final = self._final_values() if env.device.type != "cpu" else None
        self.captured: Steps | None = None
        # The column of the next step, which a captured step counts on the device.
        self.column = torch.zeros(1, dtype=torch.int64, device=env.device)
        self.normalizers = normalizers(policy)
        for normalizer in self.normalizers:
            normalizer.guess_from(self.obs)
        self.reward_moments: RunningMoments | None = getattr(policy, "reward_moments", None)
        self.returns = DiscountedReturns(env.num_envs, env.device)

    def require_divisible(self, num_minibatches: int) -> None:
        """Raises a `UsageError` unless the rows can be split into minibatches of equal size."""
        num_envs = self.env.num_envs
        if num_envs % positive("num_minibatches", num_minibatches):
            raise UsageError(
                f"num_minibatches ({num_minibatches}) must divide num_envs ({num_envs}): "
                "a minibatch is a set of whole rows"
            )

    @torch.no_grad()
    # In float32 also in a training under autocast: products of few rows do not get faster with it,
    # and an environment may multiply matrices too.
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def collect(self) -> Rollout:
        """Run T steps in every environment."""
        if self.rollout is not None:
            # In place: a captured minibatch reads it there.
            tree.map(lambda kept, leaf: kept.copy_(leaf), self.rollout.state, self.state)
        self.column.zero_()
        most = self.final.capacity if self.final else self.num_steps
        for first in range(0, self.num_steps, most):
            count = min(most, self.num_steps - first)
            self._steps(first, count)
            assert self.rollout is not None
            if self.final:
                self.final.flush(self.rollout.next_value, first, count)
        out = self.rollout
        assert out is not None
        out.last_obs = self.obs
        last = self.policy.value(self.obs, self.state, self.start)
        following = torch.cat([out.value[:, 1:], last[:, None]], dim=1)
        torch.where(out.truncated, out.next_value, following, out=out.next_value)
        return out

    def compile(self, compiler: Compiler) -> None:
        """Run steps with `compiler` from now on, if they can be."""
        self.act = compiler.forward(self.policy.act_with_value)
        self.captured = compiler.steps("the step of collecting", obstacle(self.env))
        if self.captured:
            # A captured step cannot ask for the truncated episodes.
            self.final = self.final or self._final_values()

    def _steps(self, first: int, count: int) -> None:
        """Run steps `first` .. `first + count - 1` of a row."""
        if self.captured:
            self.captured(lambda: self._step(self.column), self._live, self._set_live, count)
            return
        for t in range(first, first + count):
            self._step(t)

    def _step(self, t: int | Tensor) -> None:
        """One step in every environment: step `t` of the row (as a tensor, [1])."""
        act = self.act(self.obs, self.state, self.start)
        step = self.env.step(act.action)
        out = self.rollout
        if out is None:
            out = self.rollout = self._allocate(act.action, step.reward)
        for buffers, leaves in ((out.obs, self.obs), (out.action, act.action)):
            for key, leaf in leaves.items():
                tree.write(buffers[key], leaf, t, dim=1)
        tree.write(out.log_prob, act.log_prob, t, dim=1)
        tree.write(out.value, act.value, t, dim=1)
        tree.write(out.reward, step.reward, t, dim=1)
        tree.write(out.start, self.start, t, dim=1)
        tree.write(out.terminated, step.terminated, t, dim=1)
        tree.write(out.truncated, step.truncated, t, dim=1)
        self.obs, self.state = step.obs, act.state
        self.start = step.memory_reset
        if self.final:
            self.final.add(t, step, act.state)
        elif step.truncated.any():
            never = torch.zeros_like(self.start)
            out.next_value[:, t] = self.policy.value(step.final_obs, act.state, never)
        if self.captured:
            self.column = self.column + 1

    def _live(self) -> Any:
        """All values that a step changes, besides the rollout."""
        return self.env, self.obs, self.state, self.start, self.column

    def _set_live(self, values: Any) -> None:
        _, self.obs, self.state, self.start, self.column = values

    def _final_values(self) -> FinalValues:
        return FinalValues(self.policy, self.obs, self.state, self.num_steps)

    def rewards(self, out: Rollout, gamma: float) -> Float[Tensor, "B T"]:
        """The rewards of a rollout; if the policy keeps their statistics, divided by the deviation
        of the discounted returns so far.

        To be called once for each rollout.
        """
        if self.reward_moments is None:
            return out.reward
        returns = self.returns(out.reward, out.terminated | out.truncated, gamma)
        self.reward_moments.update(returns.reshape(-1, 1))
        return out.reward / self.reward_moments.deviation.to(out.reward.dtype)

    def update_statistics(self) -> None:
        """Include the rollout's observations in the statistics of the policy, if it keeps any.

        To be called after the updates with the rollout: they need the statistics it was made with.
        """
        assert self.rollout is not None
        for normalizer in self.normalizers:
            normalizer.observe(self.rollout.obs)

    def episode_metrics(self) -> dict[str, float]:
        """Number, mean return and mean length of the episodes (trials) that ended in the rollout.

        To be called once after each `collect`.
        """
        out = self.rollout
        assert out is not None
        return summary(*self.sums.ended(out.reward, out.start, self.start))

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run: the place in the episodes, and their sums."""
        sums = {"sums": self.sums.state_dict(), "returns": self.returns.state_dict()}
        return save_place(self.env, self.obs, self.start, self.state, **sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; without a place in it, the new episodes stay.

        Raises `CannotContinue` if the environments cannot go on from the place.
        """
        if "place" not in state:
            return
        place = state["place"]
        self.obs, self.start, self.state = load_place(place, self.env, self.obs, self.state)
        self.sums.load_state_dict(place["sums"])
        self.returns.load_state_dict(place["returns"])

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
            state=tree.map(lambda leaf: leaf.clone(), self.state),
        )
