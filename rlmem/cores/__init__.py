"""Memory cores by name: `make(name, input_size=..., **options)`, `names()`, `register(name)`."""

from rlmem.cores.base import LinearCore, MemoryCore, register, registry

make = registry.make
names = registry.names

__all__ = ["LinearCore", "MemoryCore", "make", "names", "register"]
