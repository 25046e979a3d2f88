"""Parallel Q-networks (Gallici et al. 2024, arXiv 2407.04811): Q-learning on-policy, whole rows.

    R[t] = r[t] + gamma * ((1 - q_lambda) * max_a Q(o[t+1], a) + q_lambda * R[t+1])
    L    = E[(Q(o[t], a[t]) - R[t])^2] / 2

No replay and no target network: many environments and LayerNorm, which every layer of the policy's
encoder and heads has, take their place (the paper's theorem: regularised so, TD is stable). At
the end of a row, and where an episode was truncated, R[t] = r[t] + gamma * max_a Q of what really
followed; where it terminated, R[t] = r[t]. These are Peng's Q(lambda) returns: they go through
actions that were drawn at random, and do so ever less as `epsilon` is annealed. They are
computed once for a rollout, over the rows that `on_policy.py` speaks of.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.on_policy import Metrics, OnPolicy
from rlmem.algos.returns import lambda_returns
from rlmem.algos.rollout import Rollout
from rlmem.algos.schedules import Exploration
from rlmem.envs.base import VecEnv
from rlmem.errors import share
from rlmem.policies import QPolicy
from rlmem.policies.q import misfit


@register("pqn")
class PQN(OnPolicy[QPolicy]):
    """PQN for any core and finite actions; the options are described in `configs/algo/pqn.yaml`.

    `dueling` is an option of the policy, which is made with it. Raises `UsageError` where an option
    is out of its range.
    """

    policy_type: ClassVar = QPolicy
    policy_options: ClassVar = ("dueling",)
    misfit: ClassVar = staticmethod(misfit)

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
        max_grad_norm: float = 10.0,
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
        self.gamma = share("gamma", gamma)
        self.q_lambda = share("q_lambda", q_lambda)
        self.exploration = Exploration(start_e, end_e, exploration_fraction)

    def iterate(self, progress: float) -> dict[str, float]:
        """One rollout and the epochs of updates on it."""
        epsilon = self.exploration.epsilon(progress)
        self.policy.epsilon.fill_(epsilon)
        return super().iterate(progress) | {"epsilon": epsilon}

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Epochs of minibatches over the rows of one rollout."""
        target = self.target(rollout)
        return self.descend(target.shape[0], lambda rows: self.loss(rollout, rows, target[rows]))

    def target(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """What the values of the actions that were played ought to be."""
        return lambda_returns(
            rollout.reward,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.q_lambda,
        )

    def loss(self, rollout: Rollout, rows: Tensor, target: Tensor) -> tuple[Tensor, Metrics]:
        """The loss on some rows, and what to report of it."""
        action = {key: leaf[rows] for key, leaf in rollout.action.items()}
        choice = self.policy.choices.index(action)
        value = self.policy(*rollout.rows(rows)).gather(-1, choice[..., None]).squeeze(-1)
        loss = 0.5 * (value - target).square().mean()
        return loss, {"q_loss": loss.detach(), "q": value.detach().mean()}
