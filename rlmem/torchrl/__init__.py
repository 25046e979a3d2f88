"""What torchrl's users need: our environments as an `EnvBase`, our cores as a recurrent module."""

from rlmem.torchrl.env import TorchRLEnv
from rlmem.torchrl.memory import MemoryModule

__all__ = ["MemoryModule", "TorchRLEnv"]
