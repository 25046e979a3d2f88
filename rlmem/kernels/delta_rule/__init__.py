"""Delta rule: a matrix memory that replaces the value stored at a key."""

from rlmem.kernels.delta_rule.ops import delta_rule
from rlmem.kernels.delta_rule.reference import delta_rule_reference

__all__ = ["delta_rule", "delta_rule_reference"]
