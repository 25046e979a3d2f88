"""Base class of control tasks: initial states, dynamics and observations on batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from rlmem.envs.constants import constant
from rlmem.envs.counter_rng import RandomDraws

# More steps than any episode has.
NEVER = 1 << 30


class Control(ABC):
    """The dynamics of one task, and a control law that knows them (`steer`).

    The batch is the last dimension: states are float64 [S, N]. Controls are [controls, N] in
    [-1, 1]; a task with few actions derives them from the sign of the control. The reward of a
    step, its worth, is between 0, the worst, and 1, so that episodes of equal length compare.
    """

    # Size of a state, typical magnitudes of the observed numbers, number of controls.
    numbers: ClassVar[int]
    scale: ClassVar[tuple[float, ...]]
    controls: ClassVar[int] = 1
    # No episode ends in fewer steps.
    shortest: ClassVar[int] = NEVER
    # Whether the end of an episode means success, so that each remaining step is worth 1. Otherwise
    # it means failure, and the remaining steps are worth 0.
    solved: ClassVar[bool] = False

    @abstractmethod
    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "S M"]:
        """Random initial states of episodes."""

    @abstractmethod
    def transition(
        self, state: Float64[Tensor, "S N"], control: Float64[Tensor, "C N"]
    ) -> tuple[Float64[Tensor, "S N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Next state (may be `state`, changed in place), worth of the step, end of the episode."""

    @abstractmethod
    def observe(self, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "O N"]:
        """Observations of states, a new tensor; as in Gymnasium for the tasks that it has."""

    @abstractmethod
    def steer(self, state: Float64[Tensor, "S N"]) -> Float64[Tensor, "C N"]:
        """Near-optimal controls, a new tensor in [-1, 1]; `state` is not changed."""


def between(draws: RandomDraws, *bounds: tuple[float, float]) -> Float64[Tensor, "S M"]:
    """Uniform random numbers between each pair of bounds."""
    low, high = constant(bounds, torch.float64).on(draws.device).T[..., None]
    return torch.lerp(low, high, draws.uniform64(len(bounds)))


def near(distance: Float64[Tensor, "N"], half: float) -> Float64[Tensor, "N"]:
    """1 at distance 0 and 1/2 at distance `half`: 1 / (1 + (distance / half)^2)."""
    return (distance / half).square_().add_(1).reciprocal_()


def approach(error: Float64[Tensor, "*N"], brake: float, slope: float) -> Float64[Tensor, "*N"]:
    """The speed for a distance `error`: the highest from which deceleration `brake` can still stop.

    Close to the target it is `slope` times the error instead, so that the control does not switch
    in every step: the proximate time-optimal servo (Workman 1987).
    """
    distance = error.abs()
    return torch.minimum(distance * slope, (2 * brake * distance).sqrt()) * error.sign()


def third(control: Float64[Tensor, "N"]) -> Float64[Tensor, "N"]:
    """One of the three actions -1, 0 and 1, each for a third of the range of controls."""
    return control.mul(1.5).round_().clamp_(-1, 1)


def runge_kutta(
    slope: Callable[[Tensor], Tensor], state: Float[Tensor, "S N"], seconds: float
) -> Float[Tensor, "S N"]:
    """One step of the classical fourth-order Runge-Kutta method."""
    first = slope(state)
    second = slope(torch.add(state, first, alpha=seconds / 2))
    third = slope(torch.add(state, second, alpha=seconds / 2))
    fourth = slope(torch.add(state, third, alpha=seconds))
    sum = first.add_(second, alpha=2).add_(third, alpha=2).add_(fourth)
    return torch.add(state, sum, alpha=seconds / 6)


def wrapped(angle: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Angles wrapped to between -pi and pi."""
    return torch.add(angle, angle.div(2 * torch.pi).round_(), alpha=-2 * torch.pi)
