"""rlmem for torchrl: environments as an `EnvBase`, memory cores as a recurrent module."""

# ruff: noqa: E402 (a missing torchrl is one line, before the imports that would fail)

from rlmem.errors import need

need("torchrl", "rlmem.torchrl", "torchrl")

from rlmem.torchrl.env import TorchRLEnv
from rlmem.torchrl.memory import MemoryModule
from rlmem.torchrl.threads import keep_threads
from rlmem.torchrl.transforms import KeepKeys, KeepNextStates, NextStarts
from rlmem.torchrl.windows import WindowStates

__all__ = [
    "KeepKeys",
    "KeepNextStates",
    "MemoryModule",
    "NextStarts",
    "TorchRLEnv",
    "WindowStates",
    "keep_threads",
]
