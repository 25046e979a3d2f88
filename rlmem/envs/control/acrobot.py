"""Gymnasium's Acrobot (Sutton 1996): swing two links up with a torque at their joint."""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between, runge_kutta, third, wrapped
from rlmem.envs.control.grid import Axis, Grid
from rlmem.envs.counter_rng import RandomDraws

# Links have length 1, mass 1 and inertia 1, with the centre of mass in the middle.
GRAVITY, SECONDS, SPINS = 9.8, 0.2, (4 * pi, 9 * pi)
# A swing-up does not need the highest speeds, so the grid is narrower.
GRID = Grid(
    (
        Axis(-pi, pi, 25, circle=True),
        Axis(-pi, pi, 25, circle=True),
        Axis(-5.0, 5.0, 21),
        Axis(-8.0, 8.0, 21),
    ),
    choices=(-1.0, 1.0),
    hold=2,
    depth=3,
)


def slope(state: Float64[Tensor, "4 N"], torque: Float64[Tensor, "N"]) -> Float64[Tensor, "4 N"]:
    """Time derivatives of angles and velocities (Sutton and Barto 1998, figure 11.4)."""
    upper, lower, spin, bend = state.unbind()
    cosine, sine = lower.cos(), lower.sin()
    inertia, coupling = cosine + 3.5, 0.5 * cosine + 1.25
    pull = (upper + lower).sin().mul_(0.5 * GRAVITY)
    whole = upper.sin().mul_(1.5 * GRAVITY).add_(pull)
    whole -= (0.5 * bend + spin) * bend * sine
    ratio = coupling / inertia
    force = torque + ratio * whole - 0.5 * spin.square() * sine - pull
    bending = force / (1.25 - ratio * coupling)
    return torch.stack((spin, bend, -(coupling * bending + whole) / inertia, bending))


class Acrobot(Control):
    """The state is the angle of the upper link (0 hangs), that of the lower link relative to it,
    and both velocities.

    The torque is -1, 0 or 1. A step is worth the height of the tip as a fraction of the highest. A
    tip one link length above the fixed joint solves the task.
    """

    numbers = 4
    scale = (1.0, 1.0, 1.0, 1.0, 4.0, 8.0)
    shortest = 8
    solved = True

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "4 M"]:
        """Hanging nearly straight, almost at rest."""
        return between(draws, *[(-0.1, 0.1)] * 4)

    def transition(
        self, state: Float64[Tensor, "4 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "4 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Apply a torque."""
        torque = third(control[0])
        state = runge_kutta(lambda s: slope(s, torque), state, SECONDS)
        state[:2] = wrapped(state[:2])
        for spin, fastest in zip(state[2:].unbind(), SPINS, strict=True):
            spin.clamp_(-fastest, fastest)
        height = (state[0] + state[1]).cos_().add_(state[0].cos()).neg_()
        return state, height.add(2).mul_(0.25), height > 1

    def observe(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "6 N"]:
        """Cosine and sine of both angles, then both velocities."""
        upper, lower = state[:2].unbind()
        return torch.cat(
            (torch.stack((upper.cos(), upper.sin(), lower.cos(), lower.sin())), state[2:])
        )

    def steer(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "1 N"]:
        """Dynamic programming."""
        return GRID.steer(self, state)
