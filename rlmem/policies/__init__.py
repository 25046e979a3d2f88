"""Policies: an encoder, a memory core and the heads for one kind of algorithm."""

from rlmem.policies.actor_critic import ActorCritic, PolicyStep
from rlmem.policies.policy import Act, Policy, describe_inputs
from rlmem.policies.q import QPolicy
from rlmem.policies.soft import SoftPolicy

__all__ = [
    "Act",
    "ActorCritic",
    "Policy",
    "PolicyStep",
    "QPolicy",
    "SoftPolicy",
    "describe_inputs",
]
