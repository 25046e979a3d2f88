"""The operators that `bench_kernels.py` measures and `report_kernels.py` compiles, one file each.

To add one, define `OP` in a file here with the operator's name: an instance of a class derived from
`base.Op`. No other edit is needed.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import Op


def names() -> list[str]:
    """The names of all operators, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def get(name: str) -> Op:
    """The operator with this name."""
    op: Op = importlib.import_module(f"{__name__}.{name}").OP
    return op
