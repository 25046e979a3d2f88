"""Importing this module gives Gymnasium all our environments, N at once, as `rlmem/NAME`.

`gymnasium.make_vec("rlmem/popgym-repeat", num_envs=1024, difficulty="hard")`; the module can be
part of the id as well: `"rlmem.gym:rlmem/popgym-repeat"`.
"""

from __future__ import annotations

import gymnasium

from rlmem import envs
from rlmem.envs.gym_vector import GymnasiumVectorEnv

__all__ = ["GymnasiumVectorEnv"]

for _name in envs.names():
    # Gymnasium has its own environments already.
    if _name != "gym":
        gymnasium.register(
            f"rlmem/{_name}",
            vector_entry_point="rlmem.envs.gym_vector:GymnasiumVectorEnv",
            kwargs={"env": _name},
        )
