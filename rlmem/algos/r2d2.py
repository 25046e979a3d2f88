"""Recurrent replay distributed DQN (Kapturowski et al. 2019, "R2D2") in one process.

    delta[t] = h(sum(gamma^k r[t+k], k < n) + gamma^n h^-1(Q'(o[t+n], a*))) - Q(o[t], a[t])
    a*       = argmax_a Q(o[t+n], a)                                      (section 2.3, double DQN)
    h(x)     = sign(x) (sqrt(|x| + 1) - 1) + eps x
    p        = eta max_t |delta[t]| + (1 - eta) mean_t |delta[t]|
    L        = E[w delta^2] / 2

Q' is the target network, w the weight of the row (`data/priorities.py`), Q a dueling network over
memory. Each network reads a row of T + 1 observations in one scan, so both build their memory from
the same first observation; a burn-in is read before, without gradients. Environment i explores
with epsilon^(1 + i / (N - 1) epsilon_alpha) (Horgan et al. 2018, Ape-X, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem.algos.base import Requirements, register
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.algos.target_network import TargetNetwork
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay_collector import ReplayCollector
from rlmem.data.replay_options import DEFAULTS
from rlmem.data.returns import n_step_returns, rescale, unrescale
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, fraction, positive
from rlmem.policies import QPolicy
from rlmem.policies.action_space import discrete_unsupported_reason
from rlmem.ranks import group

NEEDS = Requirements(QPolicy, ("dueling",), False, discrete_unsupported_reason, ranks=True)


@register("r2d2", NEEDS)
class R2D2:
    """R2D2 for any core; `configs/algo/r2d2.yaml` describes the options.

    Raises `UsageError` for an option out of its range.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: QPolicy,
        seed: list[int],
        num_steps: int = 8,
        num_updates: int = 4,
        learning_starts: int = 10_000,
        learning_rate: float = 1e-3,
        gamma: float = 0.99,
        n_step: int = 5,
        double: bool = True,
        dueling: bool = True,
        rescale_eps: float | None = 1e-3,
        epsilon: float = 0.4,
        epsilon_alpha: float = 7.0,
        target_tau: float = 1.0,
        target_period: int = 100,
        eta: float = 0.9,
        max_grad_norm: float = 40.0,
        adam_eps: float = 1e-8,
        replay: Mapping[str, Any] = DEFAULTS,
    ) -> None:
        fraction("epsilon", epsilon)
        if rescale_eps is not None and rescale_eps < 0:
            raise UsageError(f"rescale_eps must be at least 0, not {rescale_eps}")
        self.policy = policy
        self.collector = ReplayCollector(
            env, policy, seed, num_steps, num_updates, learning_starts, replay
        )
        self.steps_per_iteration = self.collector.steps
        self.gamma, self.eta, self.double = fraction("gamma", gamma), fraction("eta", eta), double
        self.n_step = positive("n_step", n_step)
        self.rescale_eps = rescale_eps
        every = epsilons(group.count() * env.num_envs, epsilon, epsilon_alpha)
        policy.epsilon = every[group.rows(env.num_envs)].to(env.device)
        self.target = TargetNetwork(policy, target_tau, target_period)
        self.optimizer = ClippedAdam(policy.parameters(), learning_rate, max_grad_norm, adam_eps)

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect some steps, then learn from some batches of the replay."""
        self.collector.collect()
        episodes = self.collector.episode_metrics()
        updates: list[Metrics] = []
        for batch in self.collector.batches(progress):
            metrics, priority = self.learn(batch)
            self.optimizer.check()
            self.collector.replay.update_priorities(batch.segment, priority)
            updates.append(metrics)
        return {**episodes, **mean_metrics(updates)}

    @property
    def steps_until_learning(self) -> int:
        """The steps before the first update, at least; 0 after it."""
        return self.collector.steps_until_learning

    def learn(self, batch: SequenceBatch) -> tuple[Metrics, Float[Tensor, "B"]]:
        """One update from a batch: its metrics, and the new priorities of its rows."""
        with torch.no_grad():
            target = _read(self.target.network, batch)
        online = _read(self.policy, batch)
        delta = self.errors(online, target, batch.past_burn_in(None))
        mask = batch.mask[:, batch.burn_in :]
        loss = (batch.weight[:, None] * delta.square() / 2).sum() / batch.learned_steps
        norm = self.optimizer.step(loss, f"update {self.collector.updates} of R2D2", batch)
        self.target.update()
        size = delta.detach().abs()
        mean = size.sum(1) / mask.sum(1).clamp(min=1)
        metrics = {
            "q_loss": loss.detach(),
            "q_value": self.policy.mean_value(online.detach()),
            "td_error": size.sum() / batch.learned_steps,
            "grad_norm": norm,
        }
        return metrics, self.eta * size.amax(1) + (1 - self.eta) * mean

    def errors(
        self,
        online: Float[Tensor, "B S n"],
        target: Float[Tensor, "B S n"],
        batch: SequenceBatch,
    ) -> Float[Tensor, "B T"]:
        """`delta` from the values of online and target network (S = T + 1); 0 at masked steps."""
        with torch.no_grad():
            best = (online if self.double else target)[:, 1:].argmax(dim=-1, keepdim=True)
            value = target[:, 1:].gather(-1, best)[..., 0]
            if self.rescale_eps is not None:
                value = unrescale(value, self.rescale_eps)
            # The rewards of masked steps are unknown: a return ends before them.
            cut = batch.truncated.clone()
            cut[:, :-1] |= ~batch.mask[:, 1:]
            returns = n_step_returns(
                batch.reward, value, batch.terminated, cut, self.gamma, self.n_step
            )
            if self.rescale_eps is not None:
                returns = rescale(returns, self.rescale_eps)
        index = self.policy.discrete.index(batch.action)[..., None]
        chosen = online[:, :-1].gather(-1, index)[..., 0]
        return torch.where(batch.mask, returns - chosen, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.collector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "target": self.target.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collector.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])


def epsilons(num_envs: int, epsilon: float, alpha: float) -> Float[Tensor, "N"]:
    """The probability of a random action in each environment: `epsilon` to epsilon^(1 + alpha)."""
    return epsilon ** (1 + alpha * torch.linspace(0, 1, num_envs))


def _read(policy: QPolicy, batch: SequenceBatch) -> Float[Tensor, "B S n"]:
    """The values after the burn-in, which has no gradients."""
    if not batch.burn_in:
        return policy(batch.obs, batch.state, batch.start)
    with torch.no_grad():
        obs = {key: leaf[:, : batch.burn_in] for key, leaf in batch.obs.items()}
        _, state = policy.core.scan(
            policy.encoder(obs), batch.state, batch.start[:, : batch.burn_in]
        )
    rest = batch.past_burn_in(state)
    return policy(rest.obs, rest.state, rest.start)
