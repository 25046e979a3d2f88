"""Policies: encoder, memory core and the heads that an algorithm needs."""

from rlmem.policies.actor_critic import ActorCritic, Decision
from rlmem.policies.policy import Act, Policy
from rlmem.policies.q import QPolicy
from rlmem.policies.soft import SoftPolicy

__all__ = ["Act", "ActorCritic", "Decision", "Policy", "QPolicy", "SoftPolicy"]
