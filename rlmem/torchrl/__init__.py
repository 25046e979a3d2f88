"""rlmem for torchrl: environments as an `EnvBase`, memory cores as a recurrent module."""

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
