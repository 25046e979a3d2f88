"""AMAGO: off-policy in-context actor-critic (Grigsby, Fan and Zhu 2024, arXiv 2310.09971).

One memory reads whole trajectories; actor and critics read its features h and train it together,
in one update of one loss, for all discounts gamma_g at once:

    V_i(h')  = E_{a' ~ pi'_g(h')} Q'_i(h', a')           i = 1 .. num_critics; primes: slow copies
    y_g[t]   = reward_scale r[t] + gamma_g * (0 if terminated[t] else min_{i in M} V_i(h[t+1]))
    L_critic = mean_i (Q_i(h[t], a[t]) - y_g[t])^2       in units of y_g's deviation (PopArt)
    A_g[t]   = mean_i Q_i(h[t], a[t]) - mean_i E_{a ~ pi_g(h[t])} Q_i(h[t], a)
    L_actor  = -online_coef min_i E_{a ~ pi_g(h[t])} Q_i(h[t], a)
               -offline_coef (A_g[t] > 0) log pi_g(a[t] | h[t])
    L        = L_actor + critic_coef L_critic

M is a random subset of `num_critics_td` critics (REDQ; Chen et al. 2021, arXiv 2101.05982, alg. 1).
The second actor loss clones replayed actions better than the actor's ("filtered behaviour
cloning", binary CRR; Wang et al. 2020, arXiv 2006.15134). With online_coef = 0 this is the policy
learning of AMAGO-2 (arXiv 2411.11188). In the actor loss, Q has gradients for the action only.

Only the heads have slow copies: targets use the current features of the memory, as in the authors'
implementation (a single pass of the sequence model). This saves a second scan, and target actor and
critics read features of the memory they were trained on. The cost is a target that moves with the
memory; the low `tau` of the heads and the normalised values compensate.

The agent acts for the largest gamma_g. Exploration differs between environments, from epsilon in
the first one to none in the last one: a long trajectory needs some episodes without a random step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.algos.base import Requirements, register
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.algos.popart import PopArt
from rlmem.algos.schedules import Exploration
from rlmem.algos.target_network import TargetNetwork
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay_collector import ReplayCollector
from rlmem.data.replay_options import replay_options
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError
from rlmem.policies.action_space import hybrid_unsupported_reason
from rlmem.policies.multi_gamma import GAMMAS, MultiGamma
from rlmem.spaces.action_mask import Legal

# Whole trajectories, which begin with an empty memory.
REPLAY = replay_options(
    batching="trajectory",
    batch_size=24,
    length=128,
    burn_in=0,
    stored_state=False,
    alpha=0.0,
    beta=0.0,
)
NEEDS = Requirements(MultiGamma, ("gammas", "num_critics"), False, hybrid_unsupported_reason)


@register("amago", NEEDS)
class AMAGO:
    """AMAGO for any core and actions; `configs/algo/amago.yaml` describes the options.

    `gammas` and `num_critics` are those of the policy; the arguments here are not read. Raises
    `UsageError` for an option out of its range.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: MultiGamma,
        seed: list[int],
        num_steps: int = 16,
        num_updates: int = 8,
        learning_starts: int = 5000,
        gammas: Sequence[float] = GAMMAS,
        num_critics: int = 4,
        num_critics_td: int = 2,
        online_coef: float = 1.0,
        offline_coef: float = 0.1,
        critic_coef: float = 10.0,
        reward_scale: float = 10.0,
        popart_beta: float = 0.01,
        tau: float = 0.01,
        learning_rate: float = 1e-3,
        max_grad_norm: float = 100.0,
        start_e: float = 1.0,
        end_e: float = 0.05,
        exploration_fraction: float = 0.5,
        replay: Mapping[str, Any] = REPLAY,
    ) -> None:
        self.policy = policy
        self.collector = ReplayCollector(
            env, policy, seed, num_steps, num_updates, learning_starts, replay
        )
        self.steps_per_iteration = self.collector.steps
        self.num_critics, self.num_critics_td = policy.heads.critics.count, num_critics_td
        if not 1 <= num_critics_td <= self.num_critics:
            raise UsageError(
                f"num_critics_td must be from 1 to num_critics ({self.num_critics}), "
                f"not {num_critics_td}"
            )
        coefficients = {"online_coef": online_coef, "offline_coef": offline_coef}
        for name, value in {**coefficients, "critic_coef": critic_coef}.items():
            if value < 0:
                raise UsageError(f"{name} must be at least 0, not {value}")
        if reward_scale <= 0:
            raise UsageError(f"reward_scale must be above 0, not {reward_scale}")
        self.gammas = torch.tensor(policy.gammas, device=env.device)
        self.online_coef, self.offline_coef = online_coef, offline_coef
        self.critic_coef, self.reward_scale = critic_coef, reward_scale
        self.exploration = Exploration(start_e, end_e, exploration_fraction)
        self.exploration_spread = torch.linspace(1, 0, env.num_envs, device=env.device)
        self.popart = PopArt(len(self.gammas), popart_beta).to(env.device)
        self.target = TargetNetwork(policy.heads, tau)
        self.optimizer = ClippedAdam(policy.parameters(), learning_rate, max_grad_norm)

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect some steps, then learn from some batches of the replay."""
        self.policy.epsilon = self.exploration.epsilon(progress) * self.exploration_spread
        self.collector.collect()
        episodes = self.collector.episode_metrics()
        updates: list[Metrics] = []
        for batch in self.collector.batches(progress):
            metrics, error = self.learn(batch)
            self.optimizer.check()
            self.collector.replay.update_priorities(batch.segment, error)
            updates.append(metrics)
        return {**episodes, **mean_metrics(updates)}

    @property
    def steps_until_learning(self) -> int:
        """The steps before the first update, at least; 0 after it."""
        return self.collector.steps_until_learning

    def learn(self, batch: SequenceBatch) -> tuple[Metrics, Float[Tensor, "B"]]:
        """One update from a batch: its metrics, and the error of Q in each row."""
        features, _ = self.policy.core.scan(
            self.policy.encoder(batch.obs), batch.state, batch.start
        )
        legal = self.policy.legal(batch.obs)
        judged = self.policy.critic_features(features, batch.obs)
        target = self.targets(
            batch,
            features[:, 1:].detach(),
            _steps(legal, slice(1, None)),
            judged[:, 1:].detach(),
        )
        change = self.popart.update(target, batch.mask, batch)
        for heads in (self.policy.heads, self.target.network):
            heads.critics.out.rescale(*change)
        # Select before any arithmetic: masked entries may hold anything, also NaN.
        target = torch.where(batch.mask[..., None], self.popart.normalise(target), 0)
        now = _steps(legal, slice(-1))
        loss, metrics, error = self.loss(batch, features[:, :-1], target, now, judged[:, :-1])
        metrics["grad_norm"] = self.optimizer.step(
            loss, f"update {self.collector.updates} of AMAGO", batch
        )
        self.target.update()
        return metrics, error

    @torch.no_grad()
    def targets(
        self,
        batch: SequenceBatch,
        following: Float[Tensor, "B T H"],
        legal: dict[str, Legal] | None = None,
        judged: Float[Tensor, "B T H"] | None = None,
    ) -> Float[Tensor, "B T G"]:
        """y_g in units of the rewards, from features and legal actions after each step.

        `judged` are the features of the critics, if they differ from the actor's.
        """
        members = torch.randperm(self.num_critics, device=following.device)[: self.num_critics_td]
        heads = self.target.network
        seen = following if judged is None else judged
        value = heads.value(seen, heads.actor(following, legal), members)
        reward = self.reward_scale * batch.reward
        return td_targets(reward, batch.terminated, self.popart.denormalise(value), self.gammas)

    def loss(
        self,
        batch: SequenceBatch,
        features: Float[Tensor, "B T H"],
        target: Float[Tensor, "B T G"],
        legal: dict[str, Legal] | None = None,
        judged: Float[Tensor, "B T H"] | None = None,
    ) -> tuple[Tensor, Metrics, Float[Tensor, "B"]]:
        """The loss, its metrics, and each row's error; `target` is normalised.

        `judged` are the critics' features, if they differ from the actor's.
        """
        heads = self.policy.heads
        actor = heads.actor(features, legal)
        seen = features if judged is None else judged
        q, expected = heads.judge(seen, actor, batch.action)
        error = (q - target).square().mean(0)
        better = (q.detach().mean(0) > expected.detach().mean(0)).to(q.dtype)
        online = -expected.amin(0)
        offline = -better * heads.log_prob(actor, batch.action)
        each = (
            self.critic_coef * error + self.online_coef * online + self.offline_coef * offline
        ).mean(-1)
        weight = batch.mask * batch.weight[:, None]
        weight = weight / batch.mask.sum().clamp(min=1)

        def mean(x: Tensor) -> Tensor:
            return (x * weight).sum()

        main = self.policy.main
        with torch.no_grad():
            metrics = {
                "critic_loss": mean(error.mean(-1)),
                "value": mean(self.popart.denormalise(q.mean(0))[..., main]) / self.reward_scale,
                "better": mean(better[..., main]),
                "entropy": mean(actor.entropy()[..., main]),
            }
            rows = (error[..., main] * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
        return mean(each), metrics, rows.sqrt()

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.collector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "target": self.target.state_dict(),
            "popart": dict(self.popart.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collector.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])
        self.popart.load_state_dict(state["popart"])


def _steps(legal: dict[str, Legal] | None, steps: slice) -> dict[str, Legal] | None:
    """The legal actions of some of the steps."""
    if legal is None:
        return None
    return {key: each._replace(mask=each.mask[:, steps]) for key, each in legal.items()}


def td_targets(
    reward: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    next_value: Float[Tensor, "M B T G"],
    gammas: Float[Tensor, "G"],
) -> Float[Tensor, "B T G"]:
    """`reward[t] + gammas * (0 if terminated[t] else min over M of next_value[t])`."""
    lowest = next_value.amin(0)
    return reward[..., None] + gammas * torch.where(terminated[..., None], 0, lowest)
