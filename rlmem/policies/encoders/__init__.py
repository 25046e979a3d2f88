"""Encoders by name: `make(name, spaces=..., output_size=..., **options)`, `names()`, `register`.

An encoder reads the observations for a memory core. Another package adds one with the entry point
group `rlmem.encoders`.
"""

from rlmem.policies.encoders.base import (
    ACTIVATIONS,
    Encoder,
    LeafEncoder,
    check_batch,
    flat,
    mlp,
    register,
    registry,
)

make = registry.make
names = registry.names

__all__ = [
    "ACTIVATIONS",
    "Encoder",
    "LeafEncoder",
    "check_batch",
    "flat",
    "make",
    "mlp",
    "names",
    "register",
]
