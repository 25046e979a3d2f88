"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): one memory for actor and critics.

With h[t] the memory's features after the observations up to t, and hbar, Qbar from a slow copy of
encoder, memory and critics:

    V(h)    = E_{a ~ pi(h)}[min_i Qbar_i(hbar, a) - alpha log pi(a|h)]                    (eq. 3)
    y[t]    = r[t] + gamma * (0 if terminated[t] else V(h[t+1]))
    J_Q     = sum_i E[(Q_i(h, a) - y)^2 / 2]                                              (eq. 5)
    J_pi    = E_{a ~ pi(h)}[alpha log pi(a|h) - min_i Q_i(h, a)]                          (eq. 7)
    J_alpha = E_{a ~ pi(h)}[-alpha (log pi(a|h) + H)]                                    (eq. 18)

Expectations over discrete actions are exact (Christodoulou 2019, arXiv 1910.07207, eq. 10-12);
those over continuous actions use one reparametrised sample. A hybrid action has both, each with
its own temperature. With a mask of the actions, expectations are over legal ones, and the target
entropy of discrete actions is a fraction of the largest entropy over legal actions.

J_Q alone trains encoder and memory. J_pi stops at the features and trains the actor only, as with
pixels (Yarats et al. 2019, arXiv 1910.01741): the two gradients differ in size and would compete
for the memory, so others use a second memory for the actor (Ni et al. 2022, arXiv 2110.05038; Yang
and Nguyen 2021, arXiv 2110.12628). One scan over T + 1 observations serves all three losses, a
second one the targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem import tree
from rlmem.algos.base import NonFiniteLoss, Requirements, register
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.algos.target_network import TargetNetwork
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay_collector import ReplayCollector
from rlmem.data.replay_options import replay_options
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, fraction
from rlmem.policies import SoftPolicy
from rlmem.policies.action_space import DISCRETE, hybrid_unsupported_reason
from rlmem.policies.soft import ActorOutput
from rlmem.ranks import reduce
from rlmem.spaces.action_mask import Legal

REPLAY = replay_options(capacity=300_000, length=64, burn_in=0, stride=16, alpha=0.0, beta=0.0)
# The automatic reward scale brings a discounted sum of typical rewards to this size.
USUAL_RETURN = 10.0
HORIZON = 1000


class Losses(NamedTuple):
    """The three losses; the mean entropies, the mean target, and the error of Q in each row."""

    critic: Float[Tensor, ""]
    actor: Float[Tensor, ""]
    alpha: Float[Tensor, ""]
    entropy: Float[Tensor, "2"]
    value: Float[Tensor, ""]
    error: Float[Tensor, "B"]


NEEDS = Requirements(SoftPolicy, ("num_critics",), False, hybrid_unsupported_reason, ranks=True)


@register("sac", NEEDS)
class SAC:
    """SAC for any core and any actions; `configs/algo/sac.yaml` describes the options.

    Raises `UsageError` for an option out of its range.
    """

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
        discrete_target_entropy: float = 0.3,
        discrete_target_entropy_end: float = 0.05,
        continuous_target_entropy: float = -1.0,
        reward_scale: float | None = None,
        num_critics: int = 2,
        replay: Mapping[str, Any] = REPLAY,
    ) -> None:
        if alpha <= 0 or (reward_scale is not None and reward_scale <= 0):
            raise UsageError(
                f"alpha and reward_scale must be above 0, not {alpha} and {reward_scale}"
            )
        self.policy = policy
        self.collector = ReplayCollector(
            env, policy, seed, num_steps, num_updates, learning_starts, replay
        )
        self.steps_per_iteration = self.collector.steps
        self.progress = 0.0
        self.gamma = fraction("gamma", gamma)
        self.scale = RewardScale(gamma, reward_scale, env.device)
        # Constant actions have no entropy.
        n, k = policy.actions.n, policy.actions.free
        self.kinds = {"discrete": n > 1, "continuous": k > 0}
        first = fraction("discrete_target_entropy", discrete_target_entropy) * math.log(n)
        last = fraction("discrete_target_entropy_end", discrete_target_entropy_end) * math.log(n)
        entropies = [[first, continuous_target_entropy * k], [last, continuous_target_entropy * k]]
        self.entropies = torch.tensor(entropies, device=env.device)
        log_alpha = torch.full((2,), math.log(alpha), device=env.device)
        self.log_alpha = torch.nn.Parameter(log_alpha)
        # A copy of the whole policy, which is one module; its actor is not used.
        self.target = TargetNetwork(policy, tau)
        self.optimizer = ClippedAdam(policy.parameters(), learning_rate, max_grad_norm)
        self.alpha_optimizer = ClippedAdam([self.log_alpha], alpha_learning_rate, max_grad_norm)

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect some steps, then learn from some batches of the replay."""
        self.progress = progress
        self.collector.collect()
        episodes = self.collector.episode_metrics()
        updates: list[Metrics] = []
        for batch in self.collector.batches(progress):
            metrics, error = self.learn(batch)
            if self.collector.replay.priorities:
                self._check()
                self.collector.replay.update_priorities(batch.segment, error)
            updates.append(metrics)
        self._check()
        return {**episodes, **mean_metrics(updates)}

    def _check(self) -> None:
        """Raise `NonFiniteLoss` if an update was not finite."""
        self.optimizer.check()
        self.alpha_optimizer.check()

    @property
    def target_entropy(self) -> Float[Tensor, "2"]:
        """H of discrete and of continuous actions, at this point of the training."""
        return self.entropies[0].lerp(self.entropies[1], self.progress)

    @property
    def alpha(self) -> Float[Tensor, "2"]:
        """The temperatures of discrete and of continuous actions."""
        return self.log_alpha.detach().exp()

    @property
    def steps_until_learning(self) -> int:
        """The steps before the first update, at least; 0 after it."""
        return self.collector.steps_until_learning

    def learn(self, batch: SequenceBatch) -> tuple[Metrics, Float[Tensor, "B"]]:
        """One update from a batch: its metrics, and the error of Q in each row."""
        self.scale.update(batch)
        losses = self.losses(batch)
        where = f"update {self.collector.updates} of SAC"
        norm = self.optimizer.step(losses.critic + losses.actor, where, batch)
        self.alpha_optimizer.step(losses.alpha, "SAC's temperature", batch)
        self.target.update()
        metrics = {
            "critic_loss": losses.critic.detach(),
            "actor_loss": losses.actor.detach(),
            "value": losses.value / self.scale.factor,
            "grad_norm": norm,
        }
        for index, (kind, present) in enumerate(self.kinds.items()):
            if present:
                metrics[f"{kind}_entropy"] = losses.entropy[index]
                metrics[f"{kind}_alpha"] = self.alpha[index]
        return metrics, losses.error

    def losses(self, batch: SequenceBatch) -> Losses:
        """All losses from one scan; each has gradients only for the parameters it trains."""
        policy, past = self.policy, batch.burn_in
        features, _ = policy.core.scan(policy.encoder(batch.obs), batch.state, batch.start)
        network = self.target.network
        slow, _ = network.core.scan(network.encoder(batch.obs), batch.state, batch.start)
        features, slow = features[:, past:], slow[:, past:]
        batch = batch.past_burn_in(batch.state)
        legal = policy.legal(batch.obs)
        actor = policy.actor_output(features, legal)
        target = self.targets(batch, slow, actor)
        features, actor = features[:, :-1], tree.map(lambda leaf: leaf[:, :-1], actor)
        q = policy.values(features, batch.action)
        # Select before any arithmetic: masked entries may hold anything, also NaN.
        error = torch.where(batch.mask, policy.chosen(q, batch.action) - target, 0)
        judged = policy.judge(features, actor) if policy.continuous else q.detach()
        entropy = average(actor.entropy().detach(), batch)
        goal = self.target_entropy
        if legal is not None and self.kinds["discrete"]:
            goal = goal * torch.stack([self.legal_share(legal, batch), torch.ones_like(goal[1])])
        return Losses(
            critic=average(error.square().sum(dim=0) / 2, batch),
            actor=-average(actor.value(judged.amin(dim=0), self.alpha), batch),
            alpha=(self.log_alpha.exp() * (entropy - goal)).sum(),
            entropy=entropy,
            value=average(target, batch),
            error=error.detach().abs().mean(dim=0).amax(dim=1),
        )

    def legal_share(self, legal: dict[str, Legal], batch: SequenceBatch) -> Float[Tensor, ""]:
        """The mean largest entropy over legal actions, as a fraction of that over all actions."""
        largest = legal[DISCRETE].mask[:, :-1].sum(dim=-1).log()
        return average(largest, batch) / math.log(self.policy.actions.n)

    @torch.no_grad()
    def targets(
        self, batch: SequenceBatch, features: Float[Tensor, "B N H"], actor: ActorOutput
    ) -> Float[Tensor, "B T"]:
        """The targets y, from the target network's features and the actor's output."""
        q = self.target.network.critics(features, actor.continuous).amin(dim=0)
        following = actor.value(q, self.alpha)[:, 1:]
        reward = self.scale.factor * batch.reward
        return reward + self.gamma * torch.where(batch.terminated, 0, following)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.collector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "target": self.target.state_dict(),
            "scale": self.scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collector.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.log_alpha.data.copy_(state["log_alpha"])
        self.target.load_state_dict(state["target"])
        self.scale.load_state_dict(state["scale"])


class RewardScale:
    """A factor for rewards, so that one temperature and one step size fit every reward scale.

    `given`, or `USUAL_RETURN (1 - gamma) / sqrt(E[r^2])` with the mean over all batches so far.
    `1 - gamma` is at least 1 / `HORIZON`.
    """

    def __init__(
        self, gamma: float, given: float | None, device: torch.device | str = "cpu"
    ) -> None:
        self.given = given
        self.usual = USUAL_RETURN * max(1 - gamma, 1 / HORIZON)
        self.square = torch.zeros((), dtype=torch.float64, device=device)
        self.batches = 0

    @property
    def factor(self) -> float | Float[Tensor, ""]:
        """The factor; 1 before the first reward other than 0."""
        if self.given is not None:
            return self.given
        deviation = (self.square / max(self.batches, 1)).sqrt()
        return torch.where(self.square > 0, self.usual / deviation, 1.0).float()

    def update(self, batch: SequenceBatch) -> None:
        """Include the rewards of a batch; raises `NonFiniteLoss` if one of them is not finite.

        On other devices than the CPU, where asking takes long, the loss will tell.
        """
        square = reduce.mean(average(batch.reward.square(), batch))
        finite = square.isfinite()
        if self.square.device.type == "cpu" and not finite:
            raise NonFiniteLoss(
                f"the mean squared reward is {square.item():g} in a batch of SAC", batch
            )
        self.square += torch.where(finite, square, 0)
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"square": self.square.item(), "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.square.fill_(state["square"])
        self.batches = state["batches"]


def average(x: Float[Tensor, "B T *K"], batch: SequenceBatch) -> Float[Tensor, "*K"]:
    """The mean over the unmasked steps, each weighted by its row.

    With several ranks, the mean over all of them is the mean of these.
    """
    weight = batch.mask * batch.weight[:, None] / batch.learned_steps
    mask = batch.mask.reshape(batch.mask.shape + (1,) * (x.dim() - 2))
    return torch.tensordot(weight, torch.where(mask, x, 0), dims=2)
