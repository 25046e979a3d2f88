"""Posterior sampling for tabular processes: play what is best in a process as it may be."""

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


class Belief(NamedTuple):
    """What has been seen of the tables, the plan of the episode, and where it is."""

    led: Float[Tensor, "N S A S"]
    pulls: Float[Tensor, "N S A"]
    paid: Float[Tensor, "N S A"]
    plan: Int[Tensor, "N length S"]
    t: Int[Tensor, "N"]
    place: Int[Tensor, "N"]


class PSRL(Player):
    """Strens 2000, "A Bayesian framework for reinforcement learning"; Osband et al. 2013, arXiv
    1306.0940: at the start of each episode a process is drawn from the posterior, and what is best
    there is played until the next. The prior is the true one: Dirichlet(concentration) for
    transitions and N(1, 1) for mean rewards, whose noise is N(0, 1).
    """

    def __init__(self, env: TabularMDP) -> None:
        self.env = env

    def initial_state(self, batch_size: int) -> Belief:
        """Nothing has been seen."""
        env, pairs = self.env, (batch_size, self.env.states, self.env.actions)
        led = torch.zeros(*pairs, env.states, device=env.device)
        t = torch.zeros(batch_size, dtype=torch.int64, device=env.device)
        plan = t[:, None, None].repeat(1, env.length, env.states)
        return Belief(led, led[..., 0].clone(), led[..., 0].clone(), plan, t, t.clone())

    def act(
        self, obs: Tensors, state: Belief, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Take in the last step; plan anew where an episode begins; follow the plan."""
        belief = tree.select(start, self.initial_state(len(start)), self._learn(obs, state))
        begins = start | (obs["previous_done"] == 1)
        if begins.any():
            plan = torch.where(begins[:, None, None], self._plan(belief), belief.plan)
            belief = belief._replace(plan=plan, t=torch.where(begins, 0, belief.t))
        belief = belief._replace(place=obs["obs"])
        rows = torch.arange(len(start), device=start.device)
        return Choice({"action": belief.plan[rows, belief.t, belief.place]}, belief)

    def _learn(self, obs: Tensors, state: Belief) -> Belief:
        rows = torch.arange(len(state.t), device=state.t.device)
        pair = rows, state.place, obs["previous_action"]
        led, pulls, paid = (leaf.clone() for leaf in state[:3])
        # Where an episode has ended nobody sees where its last step led to.
        led[(*pair, obs["obs"])] += 1 - obs["previous_done"].float()
        pulls[pair] += 1
        paid[pair] += obs["previous_reward"]
        return state._replace(led=led, pulls=pulls, paid=paid, t=state.t + 1)

    def _plan(self, belief: Belief) -> Int[Tensor, "N length S"]:
        """What is best in a process drawn from the posterior."""
        concentration = self.env.task.concentration.float()[:, None, None, None]
        transition = torch.distributions.Dirichlet(belief.led + concentration).sample()
        precision = 1 + belief.pulls
        mean = (1 + belief.paid) / precision
        reward = mean + torch.randn_like(mean) * precision.rsqrt()
        return finite_horizon(transition, reward, self.env.length)[0]
