"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) on one memory for actor and critics.

With h[t] what the memory makes of the observations up to t, and hbar, Qbar those of a slow copy of
encoder, memory and critics:

    V(h)    = E_{a ~ pi(h)}[min_i Qbar_i(hbar, a) - alpha log pi(a|h)]                    (eq. 3)
    y[t]    = r[t] + gamma * (0 if terminated[t] else V(h[t+1]))
    J_Q     = sum_i E[(Q_i(h, a) - y)^2 / 2]                                              (eq. 5)
    J_pi    = E_{a ~ pi(h)}[alpha log pi(a|h) - min_i Q_i(h, a)]                          (eq. 7)
    J_alpha = E_{a ~ pi(h)}[-alpha (log pi(a|h) + H)]                                    (eq. 18)

Expectations over choices are exact (Christodoulou 2019, arXiv 1910.07207, eq. 10-12), those over
numbers are one reparametrised draw; an action may have both, each with a temperature of its own.

J_Q alone shapes encoder and memory; J_pi reads their features as they are and moves the actor only,
as with pixels (Yarats et al. 2019, arXiv 1910.01741). The two gradients differ in size and would
pull one memory apart, for which reason others give the actor a memory of its own (Ni et al. 2022,
arXiv 2110.05038; Yang and Nguyen 2021, arXiv 2110.12628). One scan over T + 1 observations serves
all three losses, a second one the targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem import tree
from rlmem.algos.base import register
from rlmem.algos.descent import Descent
from rlmem.algos.off_policy import OffPolicy
from rlmem.algos.sequences import Sequences
from rlmem.algos.target import Target
from rlmem.envs.base import Spaces, VecEnv
from rlmem.errors import UsageError, share
from rlmem.policies import SoftPolicy
from rlmem.policies.mixed import misfit
from rlmem.policies.soft import Plan

REPLAY: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 300_000,
        "directory": None,
        "batching": "segments",
        "batch_size": 32,
        "length": 64,
        "burn_in": 0,
        "stride": 16,
        "stored_state": True,
        "alpha": 0.0,
        "beta": 0.0,
        "anneal_beta": False,
    }
)
# What the automatic scale makes of a discounted sum of rewards of the usual size.
USUAL_RETURN = 10.0
HORIZON = 1000


class Losses(NamedTuple):
    """What is to be made small; the entropies, the mean target, and how wrong Q is in each row."""

    critic: Float[Tensor, ""]
    actor: Float[Tensor, ""]
    alpha: Float[Tensor, ""]
    entropy: Float[Tensor, "2"]
    value: Float[Tensor, ""]
    error: Float[Tensor, "B"]


@register("sac")
class SAC(OffPolicy[SoftPolicy]):
    """SAC for any core and any actions; the options are described in `configs/algo/sac.yaml`.

    Raises `UsageError` where an option is out of its range.
    """

    policy_type: ClassVar = SoftPolicy
    policy_options: ClassVar = ("num_critics",)

    def __init__(
        self,
        env: VecEnv,
        policy: SoftPolicy,
        seed: list[int],
        num_steps: int = 2,
        num_updates: int = 1,
        learning_starts: int = 5_000,
        learning_rate: float = 1e-3,
        alpha_learning_rate: float = 1e-2,
        max_grad_norm: float = 10.0,
        gamma: float = 0.99,
        tau: float = 0.01,
        alpha: float = 0.1,
        choice_entropy: float = 0.3,
        choice_entropy_end: float = 0.05,
        number_entropy: float = -1.0,
        reward_scale: float | None = None,
        num_critics: int = 2,
        replay: Mapping[str, Any] = REPLAY,
    ) -> None:
        super().__init__(env, policy, seed, num_steps, num_updates, learning_starts, replay)
        if alpha <= 0 or (reward_scale is not None and reward_scale <= 0):
            raise UsageError(
                f"alpha and reward_scale must be above 0, not {alpha} and {reward_scale}"
            )
        self.gamma = share("gamma", gamma)
        self.scale = RewardScale(gamma, reward_scale)
        n, k = policy.mixed.n, policy.mixed.k
        self.kinds = [kind for kind, there in (("choice", n > 1), ("number", k > 0)) if there]
        first = share("choice_entropy", choice_entropy) * math.log(n)
        last = share("choice_entropy_end", choice_entropy_end) * math.log(n)
        entropies = [[first, number_entropy * k], [last, number_entropy * k]]
        self.entropies = torch.tensor(entropies, device=env.device)
        log_alpha = torch.full((2,), math.log(alpha), device=env.device)
        self.log_alpha = torch.nn.Parameter(log_alpha)
        # Of the whole policy, for it is one module; the copy's actor is never asked.
        self.target = Target(policy, tau)
        self.descent = Descent(policy.parameters(), learning_rate, max_grad_norm)
        self.alpha_descent = Descent([self.log_alpha], alpha_learning_rate, max_grad_norm)

    @staticmethod
    def misfit(action_space: Spaces) -> str | None:
        """What an action space lacks for sums over its choices; None where it fits."""
        return misfit(action_space)

    @property
    def target_entropy(self) -> Float[Tensor, "2"]:
        """H: of choices and of numbers, at this point of the training."""
        return self.entropies[0].lerp(self.entropies[1], self.progress)

    @property
    def alpha(self) -> Float[Tensor, "2"]:
        """The temperatures of choices and of numbers."""
        return self.log_alpha.detach().exp()

    def learn(self, batch: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """One update from a batch: metrics, and how wrong each row's values are."""
        self.scale.see(batch)
        losses = self.losses(batch)
        norm = self.descent.step(losses.critic + losses.actor, f"update {self.updates + 1} of SAC")
        self.alpha_descent.step(losses.alpha, "SAC's temperature")
        self.target.update()
        metrics = {
            "critic_loss": losses.critic.detach(),
            "actor_loss": losses.actor.detach(),
            "value": losses.value / self.scale.factor,
            "grad_norm": norm,
        }
        for index, kind in enumerate(("choice", "number")):
            if kind in self.kinds:
                metrics[f"{kind}_entropy"] = losses.entropy[index]
                metrics[f"{kind}_alpha"] = self.alpha[index]
        return metrics, losses.error

    def losses(self, batch: Sequences) -> Losses:
        """All of them from one scan; the gradient of each reaches only what it is for."""
        policy, past = self.policy, batch.burn_in
        features = policy.scan_features(batch.obs, batch.state, batch.start)[0][:, past:]
        slow = self.target.network.scan_features(batch.obs, batch.state, batch.start)[0][:, past:]
        batch = batch.past_burn_in(batch.state)
        plan = policy.plan(features)
        target = self.targets(batch, slow, plan)
        features, plan = features[:, :-1], tree.map(lambda leaf: leaf[:, :-1], plan)
        q = policy.values(features, batch.action)
        # A selection before anything is made of it: what is masked may be anything.
        error = torch.where(batch.mask, policy.chosen(q, batch.action) - target, 0)
        judged = policy.judge(features, plan) if policy.numbers else q.detach()
        entropy = average(plan.entropy().detach(), batch)
        return Losses(
            critic=average(error.square().sum(dim=0) / 2, batch),
            actor=-average(plan.value(judged.amin(dim=0), self.alpha), batch),
            alpha=(self.log_alpha.exp() * (entropy - self.target_entropy)).sum(),
            entropy=entropy,
            value=average(target, batch),
            error=error.detach().abs().mean(dim=0).amax(dim=1),
        )

    @torch.no_grad()
    def targets(
        self, batch: Sequences, features: Float[Tensor, "B N H"], plan: Plan
    ) -> Float[Tensor, "B T"]:
        """y, from what the slow memory makes of all entries and what the actor would do there."""
        q = self.target.network.critics(features, plan.numbers).amin(dim=0)
        following = plan.value(q, self.alpha)[:, 1:]
        reward = self.scale.factor * batch.reward
        return reward + self.gamma * torch.where(batch.terminated, 0, following)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "descent": self.descent.state_dict(),
            "alpha_descent": self.alpha_descent.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "target": self.target.state_dict(),
            "scale": self.scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.descent.load_state_dict(state["descent"])
        self.alpha_descent.load_state_dict(state["alpha_descent"])
        self.log_alpha.data.copy_(state["log_alpha"])
        self.target.load_state_dict(state["target"])
        self.scale.load_state_dict(state["scale"])


class RewardScale:
    """What rewards are multiplied by, so that one temperature and one step size serve all of them.

    Where it is not `given`: `USUAL_RETURN (1 - gamma) / sqrt(E[r^2])`, the mean over all batches,
    as if nothing counted that is more than `HORIZON` steps away.
    """

    def __init__(self, gamma: float, given: float | None) -> None:
        self.given = given
        self.usual = USUAL_RETURN * max(1 - gamma, 1 / HORIZON)
        self.square, self.batches = 0.0, 0

    @property
    def factor(self) -> float:
        """The number; 1 as long as no reward was seen."""
        if self.given is not None:
            return self.given
        return self.usual / math.sqrt(self.square / self.batches) if self.square else 1.0

    def see(self, batch: Sequences) -> None:
        """Take in the rewards of a batch."""
        self.square += average(batch.reward.square(), batch).item()
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"square": self.square, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.square, self.batches = state["square"], state["batches"]


def average(x: Float[Tensor, "B T *K"], batch: Sequences) -> Float[Tensor, "*K"]:
    """The mean over the steps to learn from, each with the weight of its row."""
    weight = batch.mask * batch.weight[:, None] / batch.mask.sum().clamp(min=1)
    mask = batch.mask.reshape(batch.mask.shape + (1,) * (x.dim() - 2))
    return torch.tensordot(weight, torch.where(mask, x, 0), dims=2)
