"""Recurrent replay distributed DQN (Kapturowski et al. 2019, "R2D2") in one process.

    delta[t] = h(sum(gamma^k r[t+k], k < n) + gamma^n h^-1(Q'(o[t+n], a*))) - Q(o[t], a[t])
    a*       = argmax_a Q(o[t+n], a)                                      (section 2.3, double DQN)
    h(x)     = sign(x) (sqrt(|x| + 1) - 1) + eps x
    p        = eta max_t |delta[t]| + (1 - eta) mean_t |delta[t]|
    L        = E[w delta^2] / 2

Q' is the target network, w the weight of the row (`replay_priorities`), Q a dueling network over
memory. Each network reads a row of T + 1 observations in one scan, so that both make their memory
from the same first observation on; a burn-in is read before, without gradients. Environment i
explores with epsilon^(1 + i / (N - 1) epsilon_alpha) (Horgan et al. 2018, Ape-X, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem.algos.base import register
from rlmem.algos.descent import Descent
from rlmem.algos.off_policy import OffPolicy
from rlmem.algos.replay import DEFAULTS
from rlmem.algos.returns import n_step_returns, rescale, unrescale
from rlmem.algos.sequences import Sequences
from rlmem.algos.target import Target
from rlmem.envs.base import VecEnv
from rlmem.errors import UsageError, positive, share
from rlmem.policies import QPolicy
from rlmem.policies.q import misfit


@register("r2d2")
class R2D2(OffPolicy[QPolicy]):
    """R2D2 for any core; the options are described in `configs/algo/r2d2.yaml`.

    Raises `UsageError` where an option is out of its range.
    """

    policy_type: ClassVar = QPolicy
    policy_options: ClassVar = ("dueling",)
    misfit: ClassVar = staticmethod(misfit)

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
        share("epsilon", epsilon)
        if rescale_eps is not None and rescale_eps < 0:
            raise UsageError(f"rescale_eps must be at least 0, not {rescale_eps}")
        super().__init__(env, policy, seed, num_steps, num_updates, learning_starts, replay)
        self.gamma, self.eta, self.double = share("gamma", gamma), share("eta", eta), double
        self.n_step = positive("n_step", n_step)
        self.rescale_eps = rescale_eps
        policy.epsilon = epsilons(env.num_envs, epsilon, epsilon_alpha).to(env.device)
        self.target = Target(policy, target_tau, target_period)
        self.descent = Descent(policy.parameters(), learning_rate, max_grad_norm, adam_eps)

    def learn(self, batch: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """One update from a batch: metrics, and the priorities [B] that its rows have now."""
        with torch.no_grad():
            there = _read(self.target.network, batch)
        here = _read(self.policy, batch)
        delta = self.errors(here, there, batch.past_burn_in(None))
        mask = batch.mask[:, batch.burn_in :]
        loss = (batch.weight[:, None] * delta.square() / 2).sum() / mask.sum().clamp(min=1)
        norm = self.descent.step(loss, f"update {self.updates + 1} of R2D2")
        self.target.update()
        size = delta.detach().abs()
        mean = size.sum(1) / mask.sum(1).clamp(min=1)
        metrics = {
            "q_loss": loss.detach(),
            "q_value": here.detach().mean(),
            "td_error": size.sum() / mask.sum().clamp(min=1),
            "grad_norm": norm,
        }
        return metrics, self.eta * size.amax(1) + (1 - self.eta) * mean

    def errors(
        self,
        here: Float[Tensor, "B S n"],
        there: Float[Tensor, "B S n"],
        batch: Sequences,
    ) -> Float[Tensor, "B T"]:
        """`delta` from the online and the target network's values (S = T + 1), 0 where masked."""
        with torch.no_grad():
            best = (here if self.double else there)[:, 1:].argmax(dim=-1, keepdim=True)
            value = there[:, 1:].gather(-1, best)[..., 0]
            if self.rescale_eps is not None:
                value = unrescale(value, self.rescale_eps)
            # Nothing is known of what comes after a step that is not there to learn from.
            cut = batch.truncated.clone()
            cut[:, :-1] |= ~batch.mask[:, 1:]
            target = n_step_returns(
                batch.reward, value, batch.terminated, cut, self.gamma, self.n_step
            )
            if self.rescale_eps is not None:
                target = rescale(target, self.rescale_eps)
        choice = self.policy.choices.index(batch.action)[..., None]
        played = here[:, :-1].gather(-1, choice)[..., 0]
        return torch.where(batch.mask, target - played, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return (
            super().state_dict() | self.descent.state_dict() | {"target": self.target.state_dict()}
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.descent.load_state_dict(state)
        self.target.load_state_dict(state["target"])


def epsilons(num_envs: int, epsilon: float, alpha: float) -> Float[Tensor, "N"]:
    """How likely each environment's actions are random: from `epsilon` to epsilon^(1 + alpha)."""
    return epsilon ** (1 + alpha * torch.linspace(0, 1, num_envs))


def _read(policy: QPolicy, batch: Sequences) -> Float[Tensor, "B S n"]:
    """The values after the burn-in, which is read without gradients."""
    if not batch.burn_in:
        return policy(batch.obs, batch.state, batch.start)
    with torch.no_grad():
        obs = {key: leaf[:, : batch.burn_in] for key, leaf in batch.obs.items()}
        _, state = policy.scan_features(obs, batch.state, batch.start[:, : batch.burn_in])
    rest = batch.past_burn_in(state)
    return policy(rest.obs, rest.state, rest.start)
