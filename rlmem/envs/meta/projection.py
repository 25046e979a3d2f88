"""Control tasks behind random matrices on observations and actions, new ones in each trial.

After Lu et al. 2023, "Structured State Space Models for In-Context Reinforcement Learning", arXiv
2303.03982, section 5. A policy that memorises one projection cannot handle another one. It has to
find out in the trial how observations and actions are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.base import Tensors
from rlmem.envs.control import CONTROLS, Control
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_distribution import SolvableTasks
from rlmem.errors import UsageError, positive, unknown
from rlmem.spaces.unit_box import UnitBox

# Factor of all matrices. Observations have sqrt(2) times the norm of the numbers, and actions can
# reach each control.
GAIN = sqrt(2)
# Separates the random numbers of matrices from all others.
_MATRICES = 0x5851F42D4C957F2D

# For each family, by its index in `CONTROLS`: states, then other results of the family.
PerFamily = dict[int, tuple[Tensor, ...]]


class Task(NamedTuple):
    """The dynamics (index in `CONTROLS`), the id of the projection, and its matrices."""

    family: Int64[Tensor, "N"]
    projection: Int64[Tensor, "N"]
    sight: Float32[Tensor, "N obs_dim O"]
    grip: Float32[Tensor, "N act_dim C"]


class State(NamedTuple):
    """The state of the dynamics and its scaled observation, padded with zeros; steps taken."""

    motion: Float64[Tensor, "N S"]
    seen: Float32[Tensor, "N O"]
    steps: Int64[Tensor, "N"]


class Projection(SolvableTasks[Task, State]):
    """Tasks of `families` in training and in the split `heldout`; of others in `heldout-families`.

    The observation is `sight @ numbers`, with each number divided by its typical size (`scale`).
    Controls are `grip.T @ action`, clipped to [-1, 1]. Both matrices are the first columns of GAIN
    times a uniformly random orthogonal matrix, as in the authors' code (which projects observations
    of its cart-pole only). With `projections` training has only that many pairs of matrices, and
    the held-out splits have others.

    An action lasts for `repeat` steps of the dynamics, and an episode for `length` actions. An
    action earns the mean worth of its steps (see `Control`) divided by `length`, so returns are
    between 0 and 1. The oracle steers each dynamics by its control law, and inverts `grip` to find
    the actions.
    """

    # Some tasks can end much earlier than others.
    spares = 2

    def __init__(
        self,
        families: Sequence[str],
        heldout_families: Sequence[str],
        obs_dim: int,
        act_dim: int,
        length: int,
        projections: int | None,
        repeat: int = 1,
        **options: Any,
    ) -> None:
        every = {_index(name): CONTROLS[name] for name in (*families, *heldout_families)}
        self.seen = max(len(task.scale) for task in every.values())
        self.numbers = max(task.numbers for task in every.values())
        self.hands = max(task.controls for task in every.values())
        self.obs_dim, self.act_dim = positive("obs_dim", obs_dim), positive("act_dim", act_dim)
        self.length, self.repeat = positive("length", length), positive("repeat", repeat)
        shortest = min(task.shortest for task in every.values())
        self.shortest_episode = min(length, -(-shortest // repeat))
        shape = ("control", obs_dim, self.seen, act_dim, self.hands, length, repeat)
        splits = _splits(families, heldout_families, Instances("orthogonal", shape), projections)
        super().__init__(
            splits,
            UnitBox(-np.inf, np.inf, (obs_dim,), np.float32),
            Box(-1.0, 1.0, (act_dim,), np.float32),
            **options,
        )
        domain = self.domains["family"]
        assert isinstance(domain, Values)
        self.families = {index: every[index] for index in domain.values}
        self.sizes = {
            index: torch.tensor(task.scale, dtype=torch.float64, device=self.device)[:, None]
            for index, task in self.families.items()
        }

    def draw_task(self, draws: RandomDraws) -> Task:
        """A family, and matrices that are functions of the projection's id."""
        family = self.drawn("family", draws)
        if isinstance(self.domains["projection"], Values):
            id = self.drawn("projection", draws)
        else:
            id = draws.bits(1)[0]
        own = RandomDraws(counter_rng.mix(id ^ _MATRICES), torch.zeros_like(id))
        sight = orthogonal(own, self.obs_dim, self.seen)
        return Task(family, id, sight * GAIN, orthogonal(own, self.act_dim, self.hands) * GAIN)

    def initial_state(self, task: Task, draws: RandomDraws) -> State:
        """Initial states of each dynamics."""
        starts: PerFamily = {
            index: (dynamics.initial_state(draws),) for index, dynamics in self.families.items()
        }
        motion, seen = self._gather(task.family, starts, self.numbers)
        return State(motion, seen, torch.zeros_like(task.family))

    def transition(
        self, task: Task, state: State, action: Tensors, random_steps: RandomSteps
    ) -> tuple[State, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """`repeat` steps of every dynamics for all rows; a row keeps those of its own dynamics."""
        motion = state.motion.t().contiguous()
        control = project(action["action"], task.grip).clamp_(-1, 1).t().to(torch.float64)
        steps = state.steps + 1
        results: PerFamily = {}
        for index, dynamics in self.families.items():
            mine = motion[: dynamics.numbers].clone()
            moved, worth, ended = self._repeat(dynamics, mine, control[: dynamics.controls])
            if dynamics.solved:
                worth = torch.where(ended, worth + (self.length - steps), worth)
            results[index] = (moved, worth[None], ended[None])
        after, seen = self._gather(task.family, results, self.numbers + 2)
        motion, worth, ended = after.split_with_sizes((self.numbers, 1, 1), 1)
        reward = worth[:, 0].div(self.length).to(torch.float32)
        flags = ended[:, 0].bool(), steps == self.length
        return State(motion.contiguous(), seen, steps), reward, *flags

    def _repeat(
        self, dynamics: Control, state: Tensor, control: Tensor
    ) -> tuple[Float64[Tensor, "S N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """`repeat` steps under one control: final state, mean worth, and whether the episode ended.

        An ended episode does not move. Its remaining steps are worth 1 if the end solved the task,
        else 0.
        """
        state, total, over = dynamics.transition(state, control)
        if dynamics.solved:
            total = total.masked_fill(over, 1)
        for _ in range(self.repeat - 1):
            moved, worth, ended = dynamics.transition(state.clone(), control)
            state = torch.where(over, state, moved)
            paid = over | ended if dynamics.solved else over
            total = total + worth.masked_fill(paid, float(dynamics.solved))
            over = over | ended
        return state, total / self.repeat, over

    def observe(self, task: Task, state: State) -> Tensors:
        """The mixed observations of the dynamics."""
        return {"obs": project(state.seen, task.sight.mT)}

    def plan(self, task: Task) -> Float32[Tensor, "N C act_dim"]:
        """The matrix from controls to the smallest actions that give them, or come closest: the
        pseudo-inverse of the columns of `grip` that the task's dynamics use.
        """
        counts = torch.tensor([each.controls for each in CONTROLS.values()], device=self.device)
        used = torch.arange(self.hands, device=self.device) < counts[task.family][:, None]
        return torch.linalg.pinv(task.grip * used[:, None])

    def best_action(
        self, plan: Float32[Tensor, "N C act_dim"], task: Task, state: State
    ) -> Tensors:
        """The actions that give the controls of each dynamics' law."""
        control = torch.zeros_like(plan[:, :, 0], dtype=torch.float64)
        for index, dynamics in self.families.items():
            rows = (task.family == index).nonzero()[:, 0]
            if len(rows):
                motion = state.motion[rows, : dynamics.numbers].t().contiguous()
                control[rows, : dynamics.controls] = dynamics.steer(motion).t()
        return {"action": project(control, plan).clamp_(-1, 1)}

    def kinds(self, task: Task) -> list[str]:
        """The family, if there are several."""
        names = _names()
        return [names[i] for i in task.family.tolist()] if len(self.families) > 1 else []

    def reveal(self, task: Task, state: State, row: int) -> str:
        """The dynamics and its state."""
        family = int(task.family[row])
        motion = state.motion[row, : self.families[family].numbers]
        return f"{_names()[family]} " + " ".join(f"{number:+.3f}" for number in motion.tolist())

    def _gather(
        self, family: Tensor, results: PerFamily, width: int
    ) -> tuple[Float64[Tensor, "N width"], Float32[Tensor, "N O"]]:
        """Select for each row the results of its own family; also returns scaled observations.

        States come first in a result, padded to `self.numbers`; `width` is the total width.
        """
        whole = torch.zeros(width, len(family), dtype=torch.float64, device=self.device)
        seen = whole.new_zeros(self.seen, len(family))
        for index, (state, *rest) in results.items():
            mine = family == index
            _put(whole[: len(state)], mine, state)
            if rest:
                _put(whole[self.numbers :], mine, torch.cat(rest))
            shown = self.families[index].observe(state).div_(self.sizes[index])
            _put(seen[: len(shown)], mine, shown)
        return whole.t().contiguous(), seen.t().to(torch.float32)


def orthogonal(
    draws: RandomDraws, rows: int, columns: int
) -> Float32[Tensor, "M {rows} {columns}"]:
    """Submatrices of uniformly random orthogonal matrices (Mezzadri 2007, section 5)."""
    size = max(rows, columns)
    gauss = counter_rng.normals(draws.bits((size * size + 1) // 2)).flatten(0, 1)[: size * size]
    q, r = torch.linalg.qr(gauss.t().reshape(-1, size, size))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (q * signs[:, None])[:, :rows, :columns].contiguous()


def _put(whole: Tensor, mine: Tensor, values: Tensor) -> None:
    """Write `values` into `whole` in the columns `mine`."""
    torch.where(mine, values, whole, out=whole)


def project(x: Float[Tensor, "N I"], matrix: Float[Tensor, "N I O"]) -> Float[Tensor, "N O"]:
    """Multiply each row with its own matrix."""
    return torch.bmm(x.to(matrix.dtype)[:, None], matrix)[:, 0]


def _names() -> list[str]:
    return list(CONTROLS)


def _index(name: str) -> int:
    if name not in CONTROLS:
        raise unknown("control task", name, CONTROLS)
    return _names().index(name)


def _splits(
    families: Sequence[str],
    heldout_families: Sequence[str],
    instances: Instances,
    projections: int | None,
) -> Splits:
    """The splits of `Projection`."""
    if not families:
        raise UsageError("families must name at least one control task")
    train: dict[str, Any] = {"family": Values(tuple(map(_index, families)))}
    others: dict[str, Any] = {}
    train["projection"] = instances
    if projections is not None:
        train["projection"] = Values(tuple(range(positive("projections", projections))))
        others["projection"] = instances
    if not heldout_families:
        return Splits(train, heldout=others)
    held = {"family": Values(tuple(map(_index, heldout_families))), **others}
    return Splits(train, heldout=others, heldout_families=held)
