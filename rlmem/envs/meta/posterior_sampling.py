"""Posterior sampling for tabular processes: act optimally in a sampled process."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors
from rlmem.envs.meta.planning import finite_horizon
from rlmem.envs.meta.players import Choice, Player
from rlmem.envs.meta.tabular_mdp import TabularMDP
from rlmem.envs.meta.task_env import TaskEnv


class Belief(NamedTuple):
    """Counts of transitions, counts and sums of rewards, the episode's policy, and its position.

    `policy` is the best action for each step and state of the sampled process.
    """

    led: Float[Tensor, "N S A S"]
    pulls: Float[Tensor, "N S A"]
    paid: Float[Tensor, "N S A"]
    policy: Int[Tensor, "N length S"]
    t: Int[Tensor, "N"]
    place: Int[Tensor, "N"]


class PSRL(Player):
    """Strens 2000, "A Bayesian framework for reinforcement learning"; Osband et al. 2013, arXiv
    1306.0940. At the start of each episode it samples a process from the posterior, and plays the
    optimal policy of this process in the episode. The prior is the true one:
    Dirichlet(concentration) for transitions and N(1, 1) for mean rewards, with reward noise N(0,
    1).
    """

    def __init__(self, env: TaskEnv, tasks: TabularMDP) -> None:
        """`tasks` is the distribution of `env`."""
        self.env, self.tasks = env, tasks

    def initial_state(self, batch_size: int) -> Belief:
        """No observations."""
        tasks = self.tasks
        led = torch.zeros(
            batch_size, tasks.states, tasks.actions, tasks.states, device=tasks.device
        )
        t = torch.zeros(batch_size, dtype=torch.int64, device=tasks.device)
        policy = t[:, None, None].repeat(1, tasks.length, tasks.states)
        return Belief(led, led[..., 0].clone(), led[..., 0].clone(), policy, t, t.clone())

    def act(
        self, obs: Tensors, state: Belief, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Record the last step, sample a policy at the start of an episode, follow it."""
        belief = tree.select(start, self.initial_state(len(start)), self._learn(obs, state))
        begins = start | (obs["previous_done"] == 1)
        if begins.any():
            policy = torch.where(begins[:, None, None], self._sample(belief), belief.policy)
            belief = belief._replace(policy=policy, t=torch.where(begins, 0, belief.t))
        belief = belief._replace(place=obs["obs"])
        rows = torch.arange(len(start), device=start.device)
        return Choice({"action": belief.policy[rows, belief.t, belief.place]}, belief)

    def _learn(self, obs: Tensors, state: Belief) -> Belief:
        rows = torch.arange(len(state.t), device=state.t.device)
        pair = rows, state.place, obs["previous_action"]
        led, pulls, paid = (leaf.clone() for leaf in state[:3])
        # The state after the last step of an episode is not observed.
        led[(*pair, obs["obs"])] += 1 - obs["previous_done"].float()
        pulls[pair] += 1
        paid[pair] += obs["previous_reward"]
        return state._replace(led=led, pulls=pulls, paid=paid, t=state.t + 1)

    def _sample(self, belief: Belief) -> Int[Tensor, "N length S"]:
        """The optimal policies of processes sampled from the posterior."""
        concentration = self.env.task.concentration.float()[:, None, None, None]
        transition = torch.distributions.Dirichlet(belief.led + concentration).sample()
        precision = 1 + belief.pulls
        mean = (1 + belief.paid) / precision
        reward = mean + torch.randn_like(mean) * precision.rsqrt()
        return finite_horizon(transition, reward, self.tasks.length)[0]
