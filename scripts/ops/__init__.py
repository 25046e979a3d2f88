"""The operators that `bench_kernels.py` measures and `report_kernels.py` compiles, one file each.

A file here that is named like the operator joins both by defining `OP`, an instance of a class
derived from `base.Op`; nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import Op


def names() -> list[str]:
    """Every operator, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def get(name: str) -> Op:
    """The operator of that name."""
    op: Op = importlib.import_module(f"{__name__}.{name}").OP
    return op
