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
The second actor loss clones what was done where it was better than the actor ("filtered behaviour
cloning", binary CRR; Wang et al. 2020, arXiv 2006.15134). With online_coef = 0 this is the policy
learning of AMAGO-2 (arXiv 2411.11188). In the actor loss Q has no gradient but that to the action.

Only the heads have slow copies: the target reads the features that the memory has now, as
in the authors' implementation (a single pass of the sequence model). That saves a second scan, and
the target actor and critics see features that they can read, because they were made by the same
memory; the price is that the target moves with the memory, which the low `tau` of the heads and
the normalised values make up for.

The agent plays for the largest gamma_g. How far it strays is different in every environment, from
epsilon in the first one to not at all in the last one: a long way is lost by a single false step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.descent import Descent
from rlmem.algos.off_policy import OffPolicy
from rlmem.algos.popart import PopArt
from rlmem.algos.schedules import Exploration
from rlmem.algos.sequences import Sequences
from rlmem.algos.target import Target
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError
from rlmem.policies.mixed import misfit
from rlmem.policies.multi_gamma import GAMMAS, MultiGamma

# Whole trajectories, which begin with an empty memory.
REPLAY: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 100_000,
        "directory": None,
        "batching": "trajectory",
        "batch_size": 24,
        "length": 128,
        "burn_in": 0,
        "stride": 20,
        "stored_state": False,
        "alpha": 0.0,
        "beta": 0.0,
        "anneal_beta": False,
    }
)


@register("amago")
class AMAGO(OffPolicy[MultiGamma]):
    """AMAGO for any core and actions; the options are described in `configs/algo/amago.yaml`.

    `gammas` and `num_critics` are the policy's, whatever is given here beside a policy. Raises
    `UsageError` where an option is out of its range.
    """

    policy_type: ClassVar = MultiGamma
    policy_options: ClassVar = ("gammas", "num_critics")
    misfit: ClassVar = staticmethod(misfit)

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
        super().__init__(env, policy, seed, num_steps, num_updates, learning_starts, replay)
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
        self.spread = torch.linspace(1, 0, env.num_envs, device=env.device)
        self.popart = PopArt(len(self.gammas), popart_beta).to(env.device)
        self.target = Target(policy.heads, tau)
        self.descent = Descent(policy.parameters(), learning_rate, max_grad_norm)

    def play(self) -> None:
        """`num_steps` steps in every environment, each with an epsilon of its own."""
        self.policy.epsilon = self.exploration.epsilon(self.progress) * self.spread
        super().play()

    def learn(self, batch: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """One update from a batch: metrics, and how wrong each row's values are."""
        features, _ = self.policy.scan_features(batch.obs, batch.state, batch.start)
        target = self.targets(batch, features[:, 1:].detach())
        change = self.popart.update(target, batch.mask)
        for heads in (self.policy.heads, self.target.network):
            heads.critics.out.rescale(*change)
        # A selection: what is masked may be anything, and leaves no trace.
        target = torch.where(batch.mask[..., None], self.popart.normalise(target), 0)
        loss, metrics, error = self.loss(batch, features[:, :-1], target)
        metrics["grad_norm"] = self.descent.step(loss, f"update {self.updates + 1} of AMAGO")
        self.target.update()
        return metrics, error

    @torch.no_grad()
    def targets(
        self, batch: Sequences, following: Float[Tensor, "B T H"]
    ) -> Float[Tensor, "B T G"]:
        """y_g, from the features of what follows each step; in the rewards' units."""
        members = torch.randperm(self.num_critics, device=following.device)[: self.num_critics_td]
        heads = self.target.network
        value = heads.value(following, heads.actor(following), members)
        reward = self.reward_scale * batch.reward
        return td_targets(reward, batch.terminated, self.popart.denormalise(value), self.gammas)

    def loss(
        self, batch: Sequences, features: Float[Tensor, "B T H"], target: Float[Tensor, "B T G"]
    ) -> tuple[Tensor, dict[str, Tensor], Float[Tensor, "B"]]:
        """The loss, what to report of it, and each row's error; `target` is normalised."""
        heads = self.policy.heads
        actor = heads.actor(features)
        q, expected = heads.judge(features, actor, batch.action)
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
        return (
            super().state_dict()
            | self.descent.state_dict()
            | {
                "target": self.target.state_dict(),
                "popart": dict(self.popart.state_dict()),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.descent.load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.popart.load_state_dict(state["popart"])


def td_targets(
    reward: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    next_value: Float[Tensor, "M B T G"],
    gammas: Float[Tensor, "G"],
) -> Float[Tensor, "B T G"]:
    """`reward[t] + gammas * (0 if terminated[t] else min over M of next_value[t])`."""
    lowest = next_value.amin(0)
    return reward[..., None] + gammas * torch.where(terminated[..., None], 0, lowest)
