"""Control tasks that hide velocities or positions, so that these must be inferred from the past."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.gym_env import EnvFn, registered, vectorize
from rlmem.errors import UsageError, unknown

MASKS = ("velocity", "position", "none")


class Layout(NamedTuple):
    """Which numbers of an observation are positions and which velocities; others are neither."""

    position: tuple[int, ...]
    velocity: tuple[int, ...]


# From the tables in Gymnasium's documentation, for the tasks that do not say it themselves.
# Neither are: the targets of Reacher and Pusher, and the double pendulum's constraint force.
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

# The parts of an observation as Gymnasium's MuJoCo tasks of version 5 name them in
# `observation_structure`, in this order. Forces (qfrc_actuator, cfrc_ext) are neither.
PARTS = {
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
    id: str,
    num_envs: int,
    masked: str = "velocity",
    max_episode_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
    kwargs: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """A control task of Gymnasium whose observations lack velocities (or positions).

    What is masked is left out, not set to 0; what is neither position nor velocity (a target, a
    force) stays. Known are Gymnasium's classic control tasks and, with the extra `mujoco`, its
    MuJoCo tasks of version 5, whose `kwargs` may change what they observe.

    Raises `UsageError` as `make_gym` does, and for a task whose observations are not known.
    """
    if masked not in MASKS:
        raise unknown("masked", masked, MASKS)
    env_fn = partial(_mask, registered(id, max_episode_steps, kwargs or {}), id, masked)
    return vectorize(env_fn, num_envs, vectorization, device, previous_action)


def _mask(env_fn: EnvFn, id: str, masked: str) -> gym.Env:
    env = env_fn()
    if masked == "none":
        return env
    return Masked(env, getattr(layout(env, id), masked))


def layout(env: gym.Env, id: str) -> Layout:
    """The layout of an environment's observations; a `UsageError` if it is not known."""
    if id in LAYOUTS:
        return LAYOUTS[id]
    structure = getattr(env.unwrapped, "observation_structure", None)
    if structure is None:
        raise UsageError(
            f"it is not known what {id!r} observes "
            f"(known: {', '.join(LAYOUTS)}, and the MuJoCo tasks of version 5)"
        )
    found: dict[str, list[int]] = {"position": [], "velocity": [], "": []}
    first = 0
    # `skipped_qpos` counts positions that are not observed.
    for part, size in structure.items():
        if part != "skipped_qpos":
            found[PARTS[part]] += range(first, first + size)
            first += size
    return Layout(tuple(found["position"]), tuple(found["velocity"]))


class Masked(gym.ObservationWrapper):
    """Leaves out the numbers of an observation at the indices `hidden`."""

    def __init__(self, env: gym.Env, hidden: tuple[int, ...]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        self.seen = np.setdiff1d(np.arange(space.shape[0]), hidden)
        low, high = space.low[self.seen], space.high[self.seen]
        self.observation_space = Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """What is left."""
        return observation[self.seen]
