"""Policies: encoder, memory core, actor and critic heads."""

from rlmem.policies.policy import Act, Policy

__all__ = ["Act", "Policy"]
