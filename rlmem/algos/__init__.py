"""Algorithms: `make(name, env=..., policy=..., **options)`, `names()`, `register(name)`."""

from rlmem.algos.base import (
    Algorithm,
    NonFiniteLoss,
    policy_options,
    policy_type,
    reads_past,
    register,
    registry,
    require_fit,
)

make = registry.make
names = registry.names

__all__ = [
    "Algorithm",
    "NonFiniteLoss",
    "make",
    "names",
    "policy_options",
    "policy_type",
    "reads_past",
    "register",
    "require_fit",
]
