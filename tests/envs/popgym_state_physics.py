"""Hidden states of the package's carts and pendulums in the form of the batched ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor


def motions(originals: list[Any], order: list[int]) -> Tensor:
    """The states of the originals in our order, [numbers, N]."""
    states = np.stack([env.state for env in originals], axis=1)
    return torch.from_numpy(states[order])


def record_noise(original: Any) -> None:
    """Records the noise of an original: as `first_noise` at a reset, as `noise` at a step."""
    add_noise = original.add_noise_to_obs

    def recorded(obs: Any) -> Any:
        ahead = copy.deepcopy(original.np_random)
        noise = ahead.normal(0, original.noise_sigma) / original.noise_sigma
        setattr(original, "noise" if original.num_steps else "first_noise", noise)
        return add_noise(obs)

    original.add_noise_to_obs = recorded


def recorded_noise(originals: list[Any], which: str) -> Tensor:
    return torch.tensor(np.stack([getattr(env, which) for env in originals], axis=1)).float()


def attach_motions(order: list[int]) -> Any:
    def attach(env: Any, originals: list[Any]) -> None:
        env.initial_motion = lambda draws: motions(originals, order)
        if hasattr(env, "sigma"):
            for original in originals:
                record_noise(original)
            env.first_noise = lambda draws: recorded_noise(originals, "first_noise")
            env.noise = lambda: recorded_noise(originals, "noise")

    return attach


attach_cart, attach_pendulum = attach_motions([0, 2, 1, 3]), attach_motions([0, 1])

ATTACH = {
    "popgym-position-only-cartpole": attach_cart,
    "popgym-velocity-only-cartpole": attach_cart,
    "popgym-noisy-position-only-cartpole": attach_cart,
    "popgym-position-only-pendulum": attach_pendulum,
    "popgym-noisy-position-only-pendulum": attach_pendulum,
}
