"""Random Markov decision processes: learn what moves where, and what pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs import streams
from rlmem.envs.base import Tensors
from rlmem.envs.meta.planning import finite_horizon
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_env import TaskEnv, meta
from rlmem.envs.streams import Draws, uniform
from rlmem.errors import positive


class Tables(NamedTuple):
    """What a tabular process hides: how likely the next states are, and mean rewards."""

    concentration: Int[Tensor, "N"]
    transition: Float[Tensor, "N S A S"]
    reward: Float[Tensor, "N S A"]


class Place(NamedTuple):
    """The state, and how many steps have been made."""

    place: Int[Tensor, "N"]
    t: Int[Tensor, "N"]


@meta("meta-tabular-mdp", episodes=10)
class TabularMDP(TaskEnv[Tables, Place]):
    """The random processes of Duan et al. 2016, "RL^2", arXiv 1611.02779, section 3.2: 10 states,
    5 actions, episodes of 10 steps from state 0; transitions follow a flat Dirichlet distribution,
    mean rewards N(1, 1), and each reward comes with noise N(0, 1).

    `concentration` are the integers that a task's Dirichlet distribution may have for all of its
    parameters; more make the next states more evenly likely. The split `heldout` has other
    processes of the same kind, `heldout-concentration` such of other concentrations.
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

    def draw_task(self, draws: Draws) -> Tables:
        """Processes."""
        concentration = self.drawn("concentration", draws)
        rows = (draws.size, self.states, self.actions)
        pairs = self.states * self.actions
        normal = streams.normals(draws.bits(-(-pairs // 2))).flatten(0, 1)[:pairs]
        domain = self.domains["concentration"]
        assert isinstance(domain, Values)
        weight = torch.zeros(pairs * self.states, draws.size, device=draws.device)
        for size in domain.values:
            # A gamma variable of integer shape is a sum of exponential ones.
            words = draws.uniform(size * len(weight)).unflatten(0, (size, -1))
            gamma = words.neg_().log1p_().sum(0).neg_()
            weight = torch.where(concentration == size, gamma, weight)
        table = weight.T.reshape(*rows, self.states)
        return Tables(concentration, table / table.sum(-1, keepdim=True), 1 + normal.T.view(rows))

    def begin(self, task: Tables, draws: Draws) -> Place:
        """State 0."""
        place = torch.zeros_like(task.concentration)
        return Place(place, place.clone())

    def play(
        self, task: Tables, state: Place, action: Tensors
    ) -> tuple[Place, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Go where chance leads."""
        pair = self._rows, state.place, action["action"].long()
        noise = streams.normals(self.steps.bits())[0, 0]
        luck = uniform(self.steps.bits()[0])
        # Rounding may leave the last sum below the luck.
        place = (luck[:, None] >= task.transition[pair].cumsum(1)[:, :-1]).sum(1)
        t = state.t + 1
        return Place(place, t), task.reward[pair] + noise, t == self.length, self._flags(False)

    def see(self, task: Tables, state: Place) -> Tensors:
        """The state."""
        return {"obs": state.place.clone()}

    def plan(self, task: Tables) -> Int[Tensor, "N length S"]:
        """The best action for each step and state."""
        return finite_horizon(task.transition, task.reward, self.length)[0]

    def best_action(self, plan: Any, task: Tables, state: Place) -> Tensors:
        """What the plan says."""
        return {"action": plan[self._rows, state.t, state.place]}

    @property
    def _rows(self) -> Int[Tensor, "N"]:
        return torch.arange(self.num_envs, device=self.device)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The state."""
        return f"state {int(obs['obs'][row])}"

    def reveal(self, row: int) -> str:
        """The mean rewards of the actions here, and where each is most likely to lead."""
        place, task = int(self.state.state.place[row]), self.task
        reward, likely = task.reward[row, place].tolist(), task.transition[row, place].max(-1)
        ways = zip(reward, likely.indices.tolist(), strict=True)
        return " ".join(f"{number:.1f}→{state}" for number, state in ways)


def _integers(numbers: Sequence[int]) -> Values:
    return Values.of([positive("concentration", number) for number in numbers])
