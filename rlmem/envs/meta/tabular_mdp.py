"""Random Markov decision processes: learn transitions and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps, uniform
from rlmem.envs.meta.planning import finite_horizon
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.envs.meta.task_env import meta
from rlmem.errors import positive


class Tables(NamedTuple):
    """A hidden tabular process: transition probabilities and mean rewards."""

    concentration: Int[Tensor, "N"]
    transition: Float[Tensor, "N S A S"]
    reward: Float[Tensor, "N S A"]


class Place(NamedTuple):
    """The state of the process, and the number of steps taken."""

    place: Int[Tensor, "N"]
    t: Int[Tensor, "N"]


@meta("meta-tabular-mdp", episodes=10)
class TabularMDP(SolvableTasks[Tables, Place]):
    """The random processes of Duan et al. 2016, "RL^2", arXiv 1611.02779, section 3.2: 10 states,
    5 actions, episodes of 10 steps from state 0. Transition probabilities follow a flat Dirichlet
    distribution, mean rewards N(1, 1), and rewards have noise N(0, 1).

    `concentration` are possible parameters, integers, of a task's symmetric Dirichlet distribution.
    Larger ones make next states more evenly likely. The split `heldout` has other processes of the
    same distribution; `heldout-concentration` has other concentrations.
    """

    def __init__(
        self,
        states: int = 10,
        actions: int = 5,
        length: int = 10,
        concentration: Sequence[int] = (1,),
        heldout_concentration: Sequence[int] = (3,),
        **options: Any,
    ) -> None:
        self.states, self.actions = positive("states", states), positive("actions", actions)
        self.length = self.shortest_episode = positive("length", length)
        tables = Instances("dirichlet and normal", (states, actions))
        splits = Splits(
            {"concentration": _integers(concentration), "tables": tables},
            heldout_concentration={"concentration": _integers(heldout_concentration)},
        )
        super().__init__(splits, Discrete(states), Discrete(actions), **options)

    def draw_task(self, draws: RandomDraws) -> Tables:
        """Random processes."""
        concentration = self.drawn("concentration", draws)
        rows = (draws.size, self.states, self.actions)
        pairs = self.states * self.actions
        normal = counter_rng.normals(draws.bits(-(-pairs // 2))).flatten(0, 1)[:pairs]
        domain = self.domains["concentration"]
        assert isinstance(domain, Values)
        weight = torch.zeros(pairs * self.states, draws.size, device=draws.device)
        for size in domain.values:
            # A gamma variable with an integer shape is a sum of exponential variables.
            words = draws.uniform(size * len(weight)).unflatten(0, (size, -1))
            gamma = words.neg_().log1p_().sum(0).neg_()
            weight = torch.where(concentration == size, gamma, weight)
        table = weight.T.reshape(*rows, self.states)
        return Tables(concentration, table / table.sum(-1, keepdim=True), 1 + normal.T.view(rows))

    def initial_state(self, task: Tables, draws: RandomDraws) -> Place:
        """State 0."""
        place = torch.zeros_like(task.concentration)
        return Place(place, place.clone())

    def transition(
        self, task: Tables, state: Place, action: Tensors, random_steps: RandomSteps
    ) -> tuple[Place, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A random next state and a noisy reward."""
        pair = _rows(state), state.place, action["action"].long()
        noise = counter_rng.normals(random_steps.bits())[0, 0]
        luck = uniform(random_steps.bits()[0])
        # The last sum is left out, because rounding may make it smaller than 1.
        place = (luck[:, None] >= task.transition[pair].cumsum(1)[:, :-1]).sum(1)
        t = state.t + 1
        return Place(place, t), task.reward[pair] + noise, t == self.length, never(t)

    def observe(self, task: Tables, state: Place) -> Tensors:
        """The state of the process."""
        return {"obs": state.place.clone()}

    def plan(self, task: Tables) -> Int[Tensor, "N length S"]:
        """The best action for each step and state."""
        return finite_horizon(task.transition, task.reward, self.length)[0]

    def best_action(self, plan: Any, task: Tables, state: Place) -> Tensors:
        """The action of the optimal policy."""
        return {"action": plan[_rows(state), state.t, state.place]}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The state of the process."""
        return f"state {int(obs['obs'][row])}"

    def reveal(self, task: Tables, state: Place, row: int) -> str:
        """The mean reward and the most likely next state of each action."""
        place = int(state.place[row])
        reward, likely = task.reward[row, place].tolist(), task.transition[row, place].max(-1)
        ways = zip(reward, likely.indices.tolist(), strict=True)
        return " ".join(f"{number:.1f}→{next_place}" for number, next_place in ways)


def _rows(state: Place) -> Int[Tensor, "N"]:
    return torch.arange(len(state.t), device=state.t.device)


def _integers(numbers: Sequence[int]) -> Values:
    return Values.of([positive("concentration", number) for number in numbers])
