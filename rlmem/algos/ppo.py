"""Proximal Policy Optimisation (Schulman et al. 2017, arXiv 1707.06347) over whole rows of memory.

    ratio  = pi(a|o) / pi_old(a|o)
    L_clip = -E[min(ratio A, clip(ratio, 1 - clip_coef, 1 + clip_coef) A)]                 (eq. 7)
    L      = L_clip + vf_coef E[(V - R)^2] / 2 - ent_coef E[H(pi)]                         (eq. 9)

over the rows that `on_policy.py` speaks of.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.on_policy import Metrics, OnPolicy
from rlmem.algos.returns import gae
from rlmem.algos.rollout import Rollout
from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError, share
from rlmem.policies import ActorCritic


@register("ppo")
class PPO(OnPolicy[ActorCritic]):
    """PPO for any core and any action space; the options are described in `configs/algo/ppo.yaml`.

    Raises `UsageError` where an option is out of its range.
    """

    policy_type: ClassVar = ActorCritic
    policy_options: ClassVar = ("separate_critic",)

    def __init__(
        self,
        env: VecEnv,
        policy: ActorCritic,
        seed: list[int],
        num_steps: int = 128,
        num_epochs: int = 4,
        num_minibatches: int = 8,
        learning_rate: float = 2e-3,
        anneal_lr: bool = True,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_coef: float = 0.2,
        clip_value: float | None = None,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        norm_adv: bool = True,
        norm_value: bool = True,
        separate_critic: bool = False,
        target_kl: float | None = None,
        adam_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            env,
            policy,
            seed,
            num_steps=num_steps,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            learning_rate=learning_rate,
            anneal_lr=anneal_lr,
            max_grad_norm=max_grad_norm,
            adam_eps=adam_eps,
        )
        if clip_coef <= 0:
            raise UsageError(f"clip_coef must be above 0, not {clip_coef}")
        self.gamma = share("gamma", gamma)
        self.gae_lambda = share("gae_lambda", gae_lambda)
        self.clip_coef = clip_coef
        self.clip_value = clip_value
        self.ent_coef = ent_coef
        self.vf_coef = vf_coef
        self.norm_adv = norm_adv
        self.norm_value = norm_value
        # A critic that shares the actor's memory must not drown it where returns differ little.
        self.least_unit = 1e-8 if separate_critic else 1.0
        self.target_kl = target_kl

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Epochs of minibatches over the rows of one rollout."""
        advantage, target = gae(
            rollout.reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        unit = float(target.var().clamp(min=self.least_unit)) if self.norm_value else 1.0
        metrics = self.descend(
            advantage.shape[0],
            lambda rows: self.loss(rollout, rows, advantage[rows], target[rows], unit),
        )
        spread = (target - rollout.value).var() / target.var().clamp(min=1e-12)
        return metrics | {"explained_variance": 1 - spread.item()}

    def enough(self, metrics: Metrics) -> bool:
        """Whether the policy has moved as far as it may."""
        return self.target_kl is not None and bool(metrics["approx_kl"] > self.target_kl)

    def loss(
        self,
        rollout: Rollout,
        rows: Tensor,
        advantage: Tensor,
        target: Tensor,
        value_unit: float = 1.0,
    ) -> tuple[Tensor, Metrics]:
        """The loss on some rows, and what to report of it; of the value's per `value_unit`."""
        policy, value = self.policy(*rollout.rows(rows))
        log_ratio = policy.log_prob(_take(rollout.action, rows)) - rollout.log_prob[rows]
        ratio = log_ratio.exp()
        if self.norm_adv:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - self.clip_coef, 1 + self.clip_coef)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = self._value_loss(value, rollout.value[rows], target)
        entropy = policy.entropy().mean()
        loss = policy_loss + self.vf_coef / value_unit * value_loss - self.ent_coef * entropy
        with torch.no_grad():
            metrics = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                # Unbiased and never negative: Schulman, "Approximating KL divergence" (2020), k3.
                "approx_kl": (ratio - 1 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1).abs() > self.clip_coef).float().mean(),
            }
        return loss, {key: metric.detach() for key, metric in metrics.items()}

    def _value_loss(self, value: Tensor, old: Tensor, target: Tensor) -> Tensor:
        error = (value - target).square()
        if self.clip_value is not None:
            near = old + (value - old).clamp(-self.clip_value, self.clip_value)
            error = torch.max(error, (near - target).square())
        return 0.5 * error.mean()


def _take(leaves: Tensors, index: Tensor) -> Tensors:
    return {key: leaf[index] for key, leaf in leaves.items()}
