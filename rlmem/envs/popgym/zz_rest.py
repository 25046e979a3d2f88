"""The families that have no tensors yet."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rlmem.envs.base import VecEnv, register
from rlmem.envs.popgym.package import make_package
from rlmem.envs.popgym.task import DIFFICULTIES, FAMILIES
from rlmem.errors import unknown

REST = {
}


def family(task: str) -> Callable[..., VecEnv]:
    """A family of the package."""

    def make(
        num_envs: int,
        difficulty: str = "easy",
        previous_action: bool = True,
        backend: str = "package",
        vectorization: str = "sync",
        check_actions: bool = False,
        device: torch.device | str = "cpu",
    ) -> VecEnv:
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        return make_package(task, difficulty, num_envs, vectorization, previous_action, device)

    return make


for _name, _task in REST.items():
    if _name not in FAMILIES:
        FAMILIES[_name] = _task
        register(_name)(family(_task))
