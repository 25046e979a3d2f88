"""Algorithms: `make(name, env=..., policy=..., **options)`, `names()`, `register(name)`."""

from rlmem.algos.base import (
    Algorithm,
    Compilable,
    LearnsLater,
    NonFiniteLoss,
    Requirements,
    register,
    registry,
    require_supported,
    requirements,
)

make = registry.make
names = registry.names

__all__ = [
    "Algorithm",
    "Compilable",
    "LearnsLater",
    "NonFiniteLoss",
    "Requirements",
    "make",
    "names",
    "register",
    "require_supported",
    "requirements",
]
