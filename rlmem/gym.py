"""Registers all environments of rlmem as Gymnasium vector environments `rlmem/NAME`, on import.

`gymnasium.make_vec("rlmem/popgym-repeat", num_envs=1024, difficulty="hard")`; with the id
`"rlmem.gym:rlmem/popgym-repeat"` Gymnasium imports this module itself.
"""

from __future__ import annotations

import gymnasium

from rlmem import envs
from rlmem.envs.gym_vector import GymnasiumVectorEnv

__all__ = ["GymnasiumVectorEnv"]

for _name in envs.names():
    # "gym" wraps Gymnasium's own environments.
    if _name != "gym":
        gymnasium.register(
            f"rlmem/{_name}",
            vector_entry_point="rlmem.envs.gym_vector:GymnasiumVectorEnv",
            kwargs={"env": _name},
        )
