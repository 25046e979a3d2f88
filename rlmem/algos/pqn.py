"""Parallel Q-networks (Gallici et al. 2024, arXiv 2407.04811): on-policy Q-learning over rows.

    R[t] = r[t] + gamma * ((1 - q_lambda) * max_a Q(o[t+1], a) + q_lambda * R[t+1])
    L    = E[(Q(o[t], a[t]) - R[t])^2] / 2

No replay and no target network. Many environments and LayerNorm in every layer replace them: TD
learning is stable under this regularisation (the paper's theorem). At the end of a row, and at a
truncated step, R[t] = r[t] + gamma * max_a Q of the observation that followed; at a terminated
step, R[t] = r[t]. These are Peng's Q(lambda) returns: they include exploratory actions, fewer and
fewer as `epsilon` falls. They are computed once per rollout. A row is described in `ppo.py`.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from rlmem.algos.base import Requirements, register, require_statistics
from rlmem.algos.optimizer import ClippedAdam, Metrics, mean_metrics
from rlmem.algos.schedules import Exploration
from rlmem.compiled import Compiler
from rlmem.data.returns import lambda_returns
from rlmem.data.rollout import Collector, Rollout, minibatches
from rlmem.envs.base import VecEnv
from rlmem.errors import fraction, positive
from rlmem.policies import QPolicy
from rlmem.policies.action_space import discrete_unsupported_reason

NEEDS = Requirements(
    QPolicy,
    ("dueling", "normalize_reward"),
    unsupported_reason=discrete_unsupported_reason,
    estimates_returns=True,
    ranks=True,
)


@register("pqn", NEEDS)
class PQN:
    """PQN for any core and discrete actions; `configs/algo/pqn.yaml` describes the options.

    `dueling` and `normalize_reward` are options of the policy. Raises `UsageError` for an option
    out of its range.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: QPolicy,
        seed: list[int],
        num_steps: int = 64,
        num_epochs: int = 4,
        num_minibatches: int = 16,
        learning_rate: float = 2e-3,
        anneal_lr: bool = True,
        gamma: float = 0.99,
        q_lambda: float = 0.65,
        start_e: float = 1.0,
        end_e: float = 0.02,
        exploration_fraction: float = 0.5,
        dueling: bool = False,
        normalize_reward: bool = False,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
    ) -> None:
        self.policy = policy
        require_statistics(policy.reward_moments, normalize_reward)
        self.num_epochs = positive("num_epochs", num_epochs)
        self.num_minibatches = num_minibatches
        self.gamma = fraction("gamma", gamma)
        self.q_lambda = fraction("q_lambda", q_lambda)
        self.exploration = Exploration(start_e, end_e, exploration_fraction)
        self.collector = Collector(env, policy, num_steps, seed)
        self.collector.require_divisible(num_minibatches)
        self.steps_per_iteration = self.collector.steps
        self.optimizer = ClippedAdam(
            policy.parameters(), learning_rate, max_grad_norm, adam_eps, anneal_lr
        )

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect one rollout, then some epochs of minibatch updates on it."""
        epsilon = self.exploration.epsilon(progress)
        self.policy.epsilon.fill_(epsilon)
        learning_rate = self.optimizer.anneal(progress)
        rollout = self.collector.collect()
        target = self.target(rollout)

        updates: list[Metrics] = []
        for epoch in range(1, self.num_epochs + 1):
            for rows in minibatches(target, self.num_minibatches):
                given, where = (rollout, rows, target[rows]), f"epoch {epoch} of PQN"
                updates.append(self.optimizer.minimize(self.loss, given, where, rollout))
        self.optimizer.check()
        self.collector.update_statistics()
        return {
            **mean_metrics(updates),
            "epochs": float(self.num_epochs),
            "learning_rate": learning_rate,
            **self.collector.episode_metrics(),
            "epsilon": epsilon,
        }

    def target(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """The returns R, targets of the values of the chosen actions."""
        return lambda_returns(
            self.collector.rewards(rollout, self.gamma),
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.q_lambda,
        )

    def loss(self, rollout: Rollout, rows: Tensor, target: Tensor) -> tuple[Tensor, Metrics]:
        """The loss of some rows, and its metrics."""
        chosen = self.policy.discrete.index(rollout.actions(rows))
        value = self.policy(*rollout.rows(rows)).gather(-1, chosen[..., None]).squeeze(-1)
        loss = 0.5 * (value - target).square().mean()
        return loss, {"q_loss": loss.detach(), "q": value.detach().mean()}

    def compile(self, compiler: Compiler) -> None:
        """Run steps of collecting and minibatches with `compiler` from now on."""
        self.collector.compile(compiler)
        self.optimizer.compile(compiler)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), **self.collector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.collector.load_state_dict(state)
