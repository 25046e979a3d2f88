"""Reacher: move the hand of a two-link arm to a target in the plane."""

from __future__ import annotations

from math import pi, tau

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, approach, between, near, wrapped
from rlmem.envs.counter_rng import RandomDraws

# Each link is a rod of length 1 and mass 1, in units of its own.
TORQUE, DAMPING, SECONDS = 2.0, 1.0, 0.05
# Distances of targets from the shoulder; the distance of the hand at which a step is worth 1/2.
TARGETS, HALF = (0.4, 1.8), 0.3
# Constants of the law, found by trial: the deceleration of each joint, the slope of `approach`, the
# gain on missing speed, and the number of seconds by which present velocities are extrapolated.
BRAKES, SLOPE, HASTE, AHEAD = (1.2, 4.0), 4.5, 9.0, 0.3


def slope(
    motion: Float64[Tensor, "4 N"], torque: Float64[Tensor, "2 N"], damping: float = DAMPING
) -> Float64[Tensor, "4 N"]:
    """Time derivatives of angles and spins: M(q) q'' + C(q, q') = torque - damping q' (no gravity).

    For rods M = [[5/3 + c, 1/3 + c/2], [1/3 + c/2, 1/3]] and C = s/2 [-b (2a + b), a^2], with
    cosine c and sine s of the elbow's angle, and spins a of the shoulder and b of the elbow.
    """
    _, elbow, spin, bend = motion.unbind()
    cosine, sine = elbow.cos(), elbow.sin()
    inertia, coupling = cosine + 5 / 3, 0.5 * cosine + 1 / 3
    first, second = torch.sub(torque, motion[2:], alpha=damping).unbind()
    first = first + 0.5 * sine * bend * (2 * spin + bend)
    second = second - 0.5 * sine * spin.square()
    determinant = inertia / 3 - coupling.square()
    turning = (first / 3 - coupling * second) / determinant
    bending = (inertia * second - coupling * first) / determinant
    return torch.stack((spin, bend, turning, bending))


def momentum(
    elbow: Float64[Tensor, "N"], spins: Float64[Tensor, "2 *B N"]
) -> Float64[Tensor, "2 *B N"]:
    """M(q) q', with the M of `slope`."""
    cosine = elbow.cos()
    spin, bend = spins
    coupling = 0.5 * cosine + 1 / 3
    return torch.stack(((cosine + 5 / 3) * spin + coupling * bend, coupling * spin + bend / 3))


def postures(target: Float64[Tensor, "2 N"]) -> Float64[Tensor, "2 2 N"]:
    """The two pairs of angles that put the hand on a target in reach: [angle, solution, N]."""
    bend = 2 * torch.linalg.vector_norm(target, dim=0).div(2).clamp(max=1).acos()
    bends = torch.stack((bend, -bend))
    return torch.stack((torch.atan2(target[1], target[0]) - bends / 2, bends))


def hand(shoulder: Float64[Tensor, "N"], elbow: Float64[Tensor, "N"]) -> Float64[Tensor, "2 N"]:
    """The position of the hand; the shoulder is at the origin."""
    both = shoulder + elbow
    return torch.stack((shoulder.cos() + both.cos(), shoulder.sin() + both.sin()))


class Reacher(Control):
    """The state is the angles of shoulder and elbow, their velocities, and the target's position.

    Each joint has a control. A step is worth more the closer the hand is. Episodes never end.
    """

    numbers = 6
    scale = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0)
    controls = 2

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "6 M"]:
        """Any angles, at rest; a target in reach, in any direction."""
        state = between(draws, (-pi, pi), (-pi, pi), (0.0, 0.0), (0.0, 0.0), TARGETS, (0.0, tau))
        distance, angle = state[4:].clone().unbind()
        state[4], state[5] = distance * angle.cos(), distance * angle.sin()
        return state

    def transition(
        self, state: Float64[Tensor, "6 N"], control: Float64[Tensor, "2 N"]
    ) -> tuple[Float64[Tensor, "6 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Apply torques at both joints for one semi-implicit Euler step."""
        angles, spins = state[:2], state[2:4]
        spins.add_(slope(state[:4], control * TORQUE)[2:], alpha=SECONDS)
        angles.add_(spins, alpha=SECONDS)
        worth = near(torch.linalg.vector_norm(state[4:] - hand(state[0], state[1]), dim=0), HALF)
        return state, worth, torch.zeros_like(worth, dtype=torch.bool)

    def observe(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "8 N"]:
        """Cosines and sines of both angles, both velocities, and the vector from hand to target."""
        shoulder, elbow = state[:2].unbind()
        turned = torch.stack((shoulder.cos(), shoulder.sin(), elbow.cos(), elbow.sin()))
        return torch.cat((turned, state[2:4], state[4:] - hand(shoulder, elbow)))

    def steer(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "2 N"]:
        """Move to the closer of both postures with the spins of `approach`, by computed torque."""
        angles, spins, target = state.split(2)
        errors = wrapped(postures(target) - angles[:, None])
        # "Closer" is measured by the energy of the spins that would lead there in one second. By
        # angles alone, a torque at one joint could make the other posture the closer one.
        rest = errors - AHEAD * spins[:, None]
        energy = (rest * momentum(angles[1], rest)).sum(0)
        error = torch.where(energy[0] <= energy[1], errors[:, 0], errors[:, 1])
        pairs = zip(error, BRAKES, strict=True)
        missing = torch.stack([approach(e, brake, SLOPE) for e, brake in pairs]) - spins
        own = slope(state[:4], torch.zeros_like(spins))[2:]
        return momentum(angles[1], HASTE * missing - own).div_(TORQUE).clamp_(-1, 1)
