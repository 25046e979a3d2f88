"""Registration of POPGym tasks: one name, three difficulties, two backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from rlmem.envs.base import VecEnv, registry
from rlmem.envs.popgym.package import make_package
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.privileged import with_state
from rlmem.envs.tensor_env import TensorEnv
from rlmem.errors import UsageError, unknown
from rlmem.registry import options_of

BACKENDS = ("tensor", "package")
DIFFICULTIES = ("easy", "medium", "hard")

# Our names, and the names of the package's classes without the difficulty.
FAMILIES: dict[str, str] = {}

Env = TypeVar("Env", bound=type[TensorEnv])


def task(
    name: str,
    package: str,
    previous_action: bool,
    maskable: bool = False,
    **levels: dict[str, Any],
) -> Callable[[Env], Env]:
    """Decorator that registers a `TensorEnv` as the POPGym task `name`.

    `package` is the name of the package's classes without the difficulty. `levels` are the options
    of the tensor environment at each difficulty. `previous_action` is the default of the option of
    that name. It should be True if actions change the episode. Otherwise observing them tells an
    agent nothing, but lets one without memory leave notes to itself (RepeatPrevious: -0.39 instead
    of -0.49). A `maskable` task has the option `action_mask`, as its class has.
    """
    observed = previous_action

    def put(tensor_env: Env) -> Env:
        FAMILIES[name] = package

        def make(
            num_envs: int,
            difficulty: str = "easy",
            previous_action: bool = observed,
            backend: str = "tensor",
            vectorization: str = "sync",
            check_actions: bool = False,
            check_obs: bool = False,
            action_mask: bool = False,
            privileged: bool = False,
            device: torch.device | str = "cpu",
        ) -> VecEnv:
            _check(difficulty, backend, vectorization, privileged)
            if backend == "package":
                options = (vectorization, previous_action, device, check_obs, action_mask)
                return make_package(package, difficulty, num_envs, *options)
            masks: dict[str, Any] = {"action_mask": action_mask} if maskable else {}
            env = (with_state(tensor_env) if privileged else tensor_env)(
                num_envs=num_envs,
                device=device,
                check_actions=check_actions,
                check_obs=check_obs,
                **levels[difficulty],
                **masks,
            )
            return PreviousAction(env) if previous_action else env

        options = options_of(make)
        if not maskable:
            del options["action_mask"]
        registry.register(name, options)(make)
        return tensor_env

    return put


def _check(difficulty: str, backend: str, vectorization: str, privileged: bool) -> None:
    if difficulty not in DIFFICULTIES:
        raise unknown("difficulty", difficulty, DIFFICULTIES)
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if privileged and backend == "package":
        raise UsageError("privileged=true needs backend=tensor")
    if backend != "package" and vectorization != "sync":
        raise UsageError(
            f"vectorization={vectorization} needs backend=package: "
            "the tensor backend plays all environments at once"
        )
