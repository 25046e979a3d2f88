"""Control tasks as functions on tensors, for many at once: how they begin, move and are seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from rlmem.envs.streams import Draws

# More steps than any episode has.
NEVER = 1 << 30


class Control(ABC):
    """The dynamics of one task. Numbers come first, environments last: states are float64 [S, N].

    Controls are [controls, N] in [-1, 1]; a task of few actions reads them off the control's sign.
    Each step is worth between 0, the worst, and 1, so that episodes of equal length compare.

    A task is one file: how it moves, and how one who knows that steers it (`steer`).
    """

    # How many numbers make a state; of what size those that are seen are; how many controls.
    numbers: ClassVar[int]
    scale: ClassVar[tuple[float, ...]]
    controls: ClassVar[int] = 1
    # No episode ends before so many steps.
    shortest: ClassVar[int] = NEVER
    # Whether what ends an episode solves it, so that the steps that are left are worth 1 each;
    # elsewhere it is a failure, and they are worth nothing.
    solved: ClassVar[bool] = False

    @abstractmethod
    def start(self, draws: Draws) -> Float64[Tensor, "S M"]:
        """States in which episodes begin."""

    @abstractmethod
    def move(
        self, state: Float64[Tensor, "S N"], control: Float64[Tensor, "C N"]
    ) -> tuple[Float64[Tensor, "S N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """The next state (it may be the old one, changed), a step's worth, and where it ends."""

    @abstractmethod
    def see(self, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "O N"]:
        """What is seen of states, as Gymnasium shows it where it has the task; a new tensor."""

    @abstractmethod
    def steer(self, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "C N"]:
        """Controls near the best ones, of states that stay as they are: a new tensor in [-1, 1]."""


def between(draws: Draws, *bounds: tuple[float, float]) -> Float64[Tensor, "S M"]:
    """For each pair of bounds, numbers that lie evenly between them."""
    low, high = torch.tensor(bounds, dtype=torch.float64, device=draws.device).T[..., None]
    return torch.lerp(low, high, draws.uniform64(len(bounds)))


def near(distance: Float64[Tensor, "N"], half: float) -> Float64[Tensor, "N"]:
    """1 at distance 0 and 1/2 at distance `half`: 1 / (1 + (distance / half)^2)."""
    return (distance / half).square_().add_(1).reciprocal_()


def approach(error: Float64[Tensor, "*N"], brake: float, slope: float) -> Float64[Tensor, "*N"]:
    """How fast to go to where `error` leads: as fast as one who decelerates by `brake` can stop.

    Near by it is `slope` times the error instead, lest the control should switch in each step: the
    proximate time-optimal servo (Workman 1987).
    """
    distance = error.abs()
    return torch.minimum(distance * slope, (2 * brake * distance).sqrt()) * error.sign()


def third(control: Float64[Tensor, "N"]) -> Float64[Tensor, "N"]:
    """The nearest of three actions, -1, 0 and 1: a third of what a control may be for each."""
    return control.mul(1.5).round_().clamp_(-1, 1)


def runge_kutta(
    slope: Callable[[Tensor], Tensor], state: Float[Tensor, "S N"], seconds: float
) -> Float[Tensor, "S N"]:
    """One step of the classical method of fourth order."""
    first = slope(state)
    second = slope(torch.add(state, first, alpha=seconds / 2))
    third = slope(torch.add(state, second, alpha=seconds / 2))
    fourth = slope(torch.add(state, third, alpha=seconds))
    sum = first.add_(second, alpha=2).add_(third, alpha=2).add_(fourth)
    return torch.add(state, sum, alpha=seconds / 6)


def wrapped(angle: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """The same angles between -pi and pi."""
    return torch.add(angle, angle.div(2 * torch.pi).round_(), alpha=-2 * torch.pi)
