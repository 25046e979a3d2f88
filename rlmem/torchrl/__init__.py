"""What torchrl's users need: our environments as an `EnvBase`."""

from rlmem.torchrl.env import TorchRLEnv

__all__ = ["TorchRLEnv"]
