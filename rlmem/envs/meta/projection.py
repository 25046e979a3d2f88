"""Control tasks seen and handled through random matrices, new ones in each trial.

After Lu et al. 2023, "Structured State Space Models for In-Context Reinforcement Learning", arXiv
2303.03982, section 5: an agent that has learned one projection by heart knows nothing of another,
and has to find out in the trial what it sees and does.
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

from rlmem.envs import streams
from rlmem.envs.base import Tensors
from rlmem.envs.control import CONTROLS, Control
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.streams import Draws
from rlmem.errors import UsageError, positive, unknown

# Of all matrices: what is seen has the size of two of its parts, and each control can be reached.
GAIN = sqrt(2)
# Sets the numbers that matrices are made of apart from all others.
_MATRICES = 0x5851F42D4C957F2D

# Of each family by its place in `CONTROLS`: states, and whatever else is to be chosen from.
Parts = dict[int, tuple[Tensor, ...]]


class Task(NamedTuple):
    """Which dynamics, by its place in `CONTROLS`; which projection, by its id; its matrices."""

    family: Int64[Tensor, "N"]
    projection: Int64[Tensor, "N"]
    sight: Float32[Tensor, "N obs_dim O"]
    grip: Float32[Tensor, "N act_dim C"]


class State(NamedTuple):
    """As many numbers as the dynamics with most has, and as many that are seen; steps played."""

    motion: Float64[Tensor, "N S"]
    seen: Float32[Tensor, "N O"]
    steps: Int64[Tensor, "N"]


class Projection(TaskEnv[Task, State]):
    """Tasks of `families` in training and in the split `heldout`, of others in `heldout-families`.

    What is seen is `sight @ numbers`, each number in units of its size; controls are `grip.T @
    action`, cut off at -1 and 1. Both matrices are the first columns of GAIN times an orthogonal
    one, drawn evenly from all of them, as in the authors' code (which projects observations of its
    cart-pole only). With `projections` training has but so many, and the held-out splits others.

    An action lasts for `repeat` steps of the dynamics, and an episode for `length` actions, each of
    which earns the mean worth of its steps (see `Control`) over `length`, so that returns lie
    between 0 and 1. Who knows the task steers each dynamics by its law, and finds the actions that
    give its controls.
    """

    # Some tasks end much earlier than others.
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
            Box(-np.inf, np.inf, (obs_dim,), np.float32),
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

    def draw_task(self, draws: Draws) -> Task:
        """A family, and matrices that are a function of the projection's id."""
        family = self.drawn("family", draws)
        if isinstance(self.domains["projection"], Values):
            id = self.drawn("projection", draws)
        else:
            id = draws.bits(1)[0]
        own = Draws(streams.mix(id ^ _MATRICES), torch.zeros_like(id))
        sight = orthogonal(own, self.obs_dim, self.seen)
        return Task(family, id, sight * GAIN, orthogonal(own, self.act_dim, self.hands) * GAIN)

    def begin(self, task: Task, draws: Draws) -> State:
        """Each dynamics begins as it does."""
        parts: Parts = {i: (dynamics.start(draws),) for i, dynamics in self.families.items()}
        motion, seen = self._gather(task.family, parts, self.numbers)
        return State(motion, seen, torch.zeros_like(task.family))

    def play(
        self, task: Task, state: State, action: Tensors
    ) -> tuple[State, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A step of each dynamics for all (`repeat` ones), of which each keeps that of its own."""
        motion = state.motion.t().contiguous()
        control = project(action["action"], task.grip).clamp_(-1, 1).t().to(torch.float64)
        steps = state.steps + 1
        parts: Parts = {}
        for index, dynamics in self.families.items():
            mine = motion[: dynamics.numbers].clone()
            moved, worth, ended = self._repeat(dynamics, mine, control[: dynamics.controls])
            if dynamics.solved:
                worth = torch.where(ended, worth + (self.length - steps), worth)
            parts[index] = (moved, worth[None], ended[None])
        after, seen = self._gather(task.family, parts, self.numbers + 2)
        motion, worth, ended = after.split_with_sizes((self.numbers, 1, 1), 1)
        reward = worth[:, 0].div(self.length).to(torch.float32)
        flags = ended[:, 0].bool(), steps == self.length
        return State(motion.contiguous(), seen, steps), reward, *flags

    def _repeat(
        self, dynamics: Control, state: Tensor, control: Tensor
    ) -> tuple[Float64[Tensor, "S N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """`repeat` steps under one control, and their mean worth; what has ended moves no more, and
        each step that is left is worth 1 if that solved it, else nothing.
        """
        state, total, over = dynamics.move(state, control)
        if dynamics.solved:
            total = total.masked_fill(over, 1)
        for _ in range(self.repeat - 1):
            moved, worth, ended = dynamics.move(state.clone(), control)
            state = torch.where(over, state, moved)
            paid = over | ended if dynamics.solved else over
            total = total + worth.masked_fill(paid, float(dynamics.solved))
            over = over | ended
        return state, total / self.repeat, over

    def see(self, task: Task, state: State) -> Tensors:
        """What is seen of each dynamics, mixed."""
        return {"obs": project(state.seen, task.sight.mT)}

    def plan(self, task: Task) -> Float32[Tensor, "N C act_dim"]:
        """The smallest actions that give each control, or come nearest: the pseudo-inverse of those
        columns of `grip` that the task's dynamics feel.
        """
        counts = torch.tensor([each.controls for each in CONTROLS.values()], device=self.device)
        felt = torch.arange(self.hands, device=self.device) < counts[task.family][:, None]
        return torch.linalg.pinv(task.grip * felt[:, None])

    def best_action(
        self, plan: Float32[Tensor, "N C act_dim"], task: Task, state: State
    ) -> Tensors:
        """What gives the controls of each dynamics' own law."""
        control = torch.zeros_like(plan[:, :, 0], dtype=torch.float64)
        for index, dynamics in self.families.items():
            rows = (task.family == index).nonzero()[:, 0]
            if len(rows):
                motion = state.motion[rows, : dynamics.numbers].t().contiguous()
                control[rows, : dynamics.controls] = dynamics.steer(motion).t()
        return {"action": project(control, plan).clamp_(-1, 1)}

    def kinds(self, task: Task) -> list[str]:
        """Its family, where there are several."""
        names = _names()
        return [names[i] for i in task.family.tolist()] if len(self.families) > 1 else []

    def reveal(self, row: int) -> str:
        """The dynamics, and the numbers of its state."""
        family = int(self.task.family[row])
        motion = self.state.state.motion[row, : self.families[family].numbers]
        return f"{_names()[family]} " + " ".join(f"{number:+.3f}" for number in motion.tolist())

    def _gather(
        self, family: Tensor, parts: Parts, width: int
    ) -> tuple[Float64[Tensor, "N width"], Float32[Tensor, "N O"]]:
        """Of each family's parts, of which the states come first, those of its rows; and what is
        seen of the states.
        """
        whole = torch.zeros(width, len(family), dtype=torch.float64, device=self.device)
        seen = whole.new_zeros(self.seen, len(family))
        for index, (state, *rest) in parts.items():
            mine = family == index
            _put(whole[: len(state)], mine, state)
            if rest:
                _put(whole[self.numbers :], mine, torch.cat(rest))
            shown = self.families[index].see(state).div_(self.sizes[index])
            _put(seen[: len(shown)], mine, shown)
        return whole.t().contiguous(), seen.t().to(torch.float32)


def orthogonal(draws: Draws, rows: int, columns: int) -> Float32[Tensor, "M {rows} {columns}"]:
    """A part of random orthogonal matrices: evenly from all of them (Mezzadri 2007, section 5)."""
    size = max(rows, columns)
    gauss = streams.normals(draws.bits((size * size + 1) // 2)).flatten(0, 1)[: size * size]
    q, r = torch.linalg.qr(gauss.t().reshape(-1, size, size))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (q * signs[:, None])[:, :rows, :columns].contiguous()


def _put(whole: Tensor, mine: Tensor, part: Tensor) -> None:
    """Write `part` where it is `mine`."""
    torch.where(mine, part, whole, out=whole)


def project(x: Float[Tensor, "N I"], matrix: Float[Tensor, "N I O"]) -> Float[Tensor, "N O"]:
    """Each row through its own matrix."""
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
