"""Registers all environments of rlmem as Gymnasium vector environments `rlmem/NAME`, on import.

`gymnasium.make_vec("rlmem/popgym-repeat", num_envs=1024, difficulty="hard")`; with the id
`"rlmem.gym:rlmem/popgym-repeat"` Gymnasium imports this module itself. The option `id` of `gym` and
`masked` is called `env_id` here: `gymnasium.make_vec("rlmem/masked", env_id="Pendulum-v1")`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import gymnasium

from rlmem import envs
from rlmem.envs.gym_vector import GymnasiumVectorEnv

__all__ = ["GymnasiumVectorEnv"]


def refuse_single(env: str, **_: Any) -> NoReturn:
    """Raises an error that says how to make the environment: `gymnasium.make` cannot."""
    id = f"rlmem/{env}"
    raise gymnasium.error.Error(
        f"{id} is a batch of environments: use gymnasium.make_vec({id!r}, num_envs=1)"
    )


for _name in envs.names():
    gymnasium.register(
        f"rlmem/{_name}",
        entry_point="rlmem.gym:refuse_single",
        vector_entry_point="rlmem.envs.gym_vector:GymnasiumVectorEnv",
        kwargs={"env": _name},
    )
