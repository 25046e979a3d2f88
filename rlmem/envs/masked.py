"""Control tasks without velocities or positions in the observations."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.gym_env import vectorize
from rlmem.envs.gym_ids import registered
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError, unknown

MASKS = ("velocity", "position", "none")


class Layout(NamedTuple):
    """The indices of positions and of velocities in an observation; other entries are neither."""

    position: tuple[int, ...]
    velocity: tuple[int, ...]


# From Gymnasium's documentation, for tasks without an `observation_structure`. Neither positions
# nor velocities are the targets of Reacher and Pusher and the constraint force of the double
# pendulum.
LAYOUTS = {
    "CartPole-v0": Layout((0, 2), (1, 3)),
    "CartPole-v1": Layout((0, 2), (1, 3)),
    "Pendulum-v1": Layout((0, 1), (2,)),
    "MountainCar-v0": Layout((0,), (1,)),
    "MountainCarContinuous-v0": Layout((0,), (1,)),
    "Acrobot-v1": Layout((0, 1, 2, 3), (4, 5)),
    "Reacher-v5": Layout((0, 1, 2, 3, 8, 9), (6, 7)),
    "Pusher-v5": Layout((*range(7), *range(14, 20)), tuple(range(7, 14))),
    "InvertedDoublePendulum-v5": Layout((0, 1, 2, 3, 4), (5, 6, 7)),
}

# The keys of `observation_structure` of Gymnasium's MuJoCo tasks (version 5), in this order. Forces
# (qfrc_actuator, cfrc_ext) are neither positions nor velocities.
MUJOCO_KEYS = {
    "qpos": "position",
    "qvel": "velocity",
    "cinert": "position",
    "cvel": "velocity",
    "qfrc_actuator": "",
    "cfrc_ext": "",
    "ten_length": "position",
    "ten_velocity": "velocity",
}


@register("masked")
def make_masked(
    num_envs: int,
    id: str = "CartPole-v1",
    masked: str = "velocity",
    max_episode_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
    check_obs: bool = True,
    kwargs: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """A control task of Gymnasium without velocities (or positions) in its observations.

    Masked entries are left out, not set to 0. Entries that are neither positions nor velocities (a
    target, a force) stay. Supported are Gymnasium's classic control tasks and, with the extra
    `mujoco`, its MuJoCo tasks of version 5; `kwargs` may change their observations.

    Raises the errors of `make_gym`, and `UsageError` for a task with an unknown layout.
    """
    if masked not in MASKS:
        raise unknown("masked", masked, MASKS)
    env_fn = partial(_mask, registered(id, max_episode_steps, kwargs or {}), id, masked)
    return vectorize(env_fn, num_envs, vectorization, device, previous_action, check_obs)


def _mask(env_fn: EnvFn, id: str, masked: str) -> gym.Env:
    env = env_fn()
    if masked == "none":
        return env
    found = layout(env, id)
    return Masked(env, found.velocity if masked == "velocity" else found.position)


def layout(env: gym.Env, id: str) -> Layout:
    """The layout of an environment's observations; a `UsageError` if it is unknown."""
    if id in LAYOUTS:
        return LAYOUTS[id]
    structure = getattr(env.unwrapped, "observation_structure", None)
    if structure is None:
        raise UsageError(
            f"the observation layout of {id!r} is unknown "
            f"(known: {', '.join(LAYOUTS)}, and the MuJoCo tasks of version 5)"
        )
    found: dict[str, list[int]] = {"position": [], "velocity": [], "": []}
    first = 0
    # `skipped_qpos` counts positions that are not part of the observation.
    for key, size in structure.items():
        if key != "skipped_qpos":
            found[MUJOCO_KEYS[key]] += range(first, first + size)
            first += size
    return Layout(tuple(found["position"]), tuple(found["velocity"]))


class Masked(gym.ObservationWrapper):
    """Removes the entries of an observation at the indices `hidden`."""

    def __init__(self, env: gym.Env, hidden: tuple[int, ...]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        self.seen = np.setdiff1d(np.arange(space.shape[0]), hidden)
        low, high = space.low[self.seen], space.high[self.seen]
        self.observation_space = Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The remaining entries."""
        return observation[self.seen]
