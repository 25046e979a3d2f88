"""Batched environments: `make(name, num_envs=..., **options)`, `names()`, `register(name)`."""

from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv, register, registry

make = registry.make
names = registry.names

__all__ = ["Spaces", "Tensors", "Transition", "VecEnv", "make", "names", "register"]
