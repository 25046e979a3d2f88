"""Proximal Policy Optimisation (Schulman et al. 2017, arXiv 1707.06347) over whole rows of memory.

    ratio  = pi(a|o) / pi_old(a|o)
    L_clip = -E[min(ratio A, clip(ratio, 1 - clip_coef, 1 + clip_coef) A)]                 (eq. 7)
    L      = L_clip + vf_coef E[(V - R)^2] / 2 - ent_coef E[H(pi)]                         (eq. 9)
             + predict_obs L_obs + predict_reward L_reward           (optional, see `Forecast`)

A row is the experience of one environment in `num_steps` steps: episodes end to end, a start flag
at each episode's first step, and the memory before the row. One scan reads a whole row, without
splitting, padding or a loop over time. A minibatch is a set of whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlmem.algos.base import Requirements, register, require_statistics
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.compiled import Compiler
from rlmem.data.returns import gae
from rlmem.data.rollout import Collector, Rollout, minibatches
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, fraction, positive
from rlmem.policies import ActorCritic
from rlmem.ranks import group, reduce

NEEDS = Requirements(
    ActorCritic,
    ("separate_critic", "normalize_reward", "predict_obs", "predict_reward"),
    estimates_returns=True,
    ranks=True,
)


@register("ppo", NEEDS)
class PPO:
    """PPO for any core and any action space; `configs/algo/ppo.yaml` describes the options.

    Raises `UsageError` for an option out of its range.
    """

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
        normalize_reward: bool = False,
        target_kl: float | None = None,
        adam_eps: float = 1e-5,
        predict_obs: float = 0.0,
        predict_reward: float = 0.0,
    ) -> None:
        if clip_coef <= 0:
            raise UsageError(f"clip_coef must be above 0, not {clip_coef}")
        self.policy = policy
        require_statistics(policy.reward_moments, normalize_reward)
        self.num_epochs = positive("num_epochs", num_epochs)
        self.num_minibatches = num_minibatches
        self.gamma = fraction("gamma", gamma)
        self.gae_lambda = fraction("gae_lambda", gae_lambda)
        self.clip_coef, self.clip_value = clip_coef, clip_value
        self.ent_coef, self.vf_coef = ent_coef, vf_coef
        self.norm_adv, self.norm_value = norm_adv, norm_value
        # Small returns must not make the value loss dominate a memory shared with the actor.
        self.min_value_scale = 1e-8 if separate_critic else 1.0
        self.target_kl = target_kl
        self.predict_obs, self.predict_reward = predict_obs, predict_reward
        self.reward_deviation = torch.ones((), device=env.device)
        self.collector = Collector(env, policy, num_steps, seed)
        self.collector.require_divisible(num_minibatches)
        self.steps_per_iteration = self.collector.steps
        self.optimizer = ClippedAdam(
            policy.parameters(),
            learning_rate,
            max_grad_norm,
            adam_eps,
            anneal_lr,
            separate_group=policy.critic_parameters(),
        )

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect one rollout, then some epochs of minibatch updates on it."""
        learning_rate = self.optimizer.anneal(progress)
        rollout = self.collector.collect()
        advantage, target = gae(
            self.collector.rewards(rollout, self.gamma),
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        value_scale = torch.ones_like(target[0, 0])  # a single target has no variance
        if self.norm_value and group.count() * target.numel() > 1:
            value_scale = reduce.variance(target).clamp(min=self.min_value_scale)

        if self.predict_reward:
            deviation = reduce.variance(rollout.reward).sqrt().clamp(min=1e-8)
            self.reward_deviation.copy_(deviation)
        updates: list[Metrics] = []
        for epoch in range(1, self.num_epochs + 1):
            batches = minibatches(advantage, self.num_minibatches)
            advantages = self.normalized([advantage[rows] for rows in batches])
            for rows, own in zip(batches, advantages, strict=True):
                given = rollout, rows, own, target[rows], value_scale
                where = f"epoch {epoch} of PPO"
                updates.append(self.optimizer.minimize(self.loss, given, where, rollout))
            if self.target_kl is not None:
                kl = mean_metrics(updates[-self.num_minibatches :])["approx_kl"]
                if reduce.mean_number(kl) > self.target_kl:
                    break
        self.optimizer.check()
        self.collector.update_statistics()
        unexplained = reduce.variance(target - rollout.value)
        unexplained = unexplained / reduce.variance(target).clamp(min=1e-12)
        return {
            **mean_metrics(updates),
            "epochs": float(epoch),
            "explained_variance": 1 - unexplained.item(),
            "learning_rate": learning_rate,
            **self.collector.episode_metrics(),
        }

    def normalized(self, advantages: Sequence[Tensor]) -> list[Tensor]:
        """The advantages of some minibatches, each with mean 0 and deviation 1, with `norm_adv`."""
        # A single advantage has no deviation.
        if not self.norm_adv or group.count() * advantages[0].numel() == 1:
            return list(advantages)
        moments = reduce.means_and_deviations(advantages)
        return [
            (advantage - mean) / (deviation + 1e-8)
            for advantage, (mean, deviation) in zip(advantages, moments, strict=True)
        ]

    def loss(
        self,
        rollout: Rollout,
        rows: Tensor,
        advantage: Tensor,
        target: Tensor,
        value_scale: Tensor | float = 1.0,
    ) -> tuple[Tensor, Metrics]:
        """The loss of some rows, and its metrics; `value_scale` divides the value loss."""
        obs, state, start = rollout.rows(rows)
        policy, value, features = self.policy.row(obs, state, start)
        log_ratio = policy.log_prob(rollout.actions(rows)) - rollout.log_prob[rows]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_coef, 1 + self.clip_coef)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = self.value_loss(value, rollout.value[rows], target)
        entropy = policy.entropy().mean()
        # Divided in float64, then rounded: as with a number of the host.
        weight = self.vf_coef / torch.as_tensor(value_scale, dtype=torch.float64)
        weighted = weight.to(value_loss.dtype) * value_loss
        loss = policy_loss + weighted - self.ent_coef * entropy
        with torch.no_grad():
            metrics = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                # Unbiased and never negative: Schulman, "Approximating KL divergence" (2020), k3.
                "approx_kl": (ratio - 1 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1).abs() > self.clip_coef).float().mean(),
            }
        if self.policy.forecast is not None:
            if self.policy.encoder.normalizer is not None:
                obs = self.policy.encoder.normalizer(obs)
            reward = rollout.reward[rows] / self.reward_deviation
            obs_loss, reward_loss = self.policy.forecast.losses(
                features, rollout.actions(rows), obs, reward, start
            )
            loss = loss + self.predict_obs * obs_loss + self.predict_reward * reward_loss
            metrics |= {"obs_loss": obs_loss, "reward_loss": reward_loss}
        return loss, {key: metric.detach() for key, metric in metrics.items()}

    def value_loss(self, value: Tensor, old: Tensor, target: Tensor) -> Tensor:
        """Half the mean squared error; with `clip_value` the larger one of both, as in PPO2."""
        error = (value - target).square()
        if self.clip_value is not None:
            near = old + (value - old).clamp(-self.clip_value, self.clip_value)
            error = torch.max(error, (near - target).square())
        return 0.5 * error.mean()

    def compile(self, compiler: Compiler) -> None:
        """Run steps of collecting and minibatches with `compiler` from now on."""
        self.collector.compile(compiler)
        self.optimizer.compile(compiler)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), **self.collector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.collector.load_state_dict(state)
