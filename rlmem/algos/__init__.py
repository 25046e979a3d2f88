"""Algorithms: `make(name, env=..., policy=..., **options)`, `names()`, `register(name)`."""

from rlmem.algos.base import Algorithm, NonFiniteLoss, register, registry

make = registry.make
names = registry.names

__all__ = ["Algorithm", "NonFiniteLoss", "make", "names", "register"]
