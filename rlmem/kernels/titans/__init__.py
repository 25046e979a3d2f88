"""Neural memory that learns at test time (Titans)."""

from rlmem.kernels.titans.ops import titans
from rlmem.kernels.titans.reference import (
    Learned,
    Rates,
    learn,
    next_anchor,
    recall,
    reset,
    titans_reference,
)
from rlmem.kernels.titans.rule import Rule, retain

__all__ = [
    "Learned",
    "Rates",
    "Rule",
    "learn",
    "next_anchor",
    "recall",
    "reset",
    "retain",
    "titans",
    "titans_reference",
]
