"""Leaves that only a critic reads (asymmetric actor-critic; Pinto et al. 2018, arXiv 1710.06542).

The critic is not needed to act, so it may read in training what the agent cannot observe: the
hidden state of a simulator. The actor and its memory never read these leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import UsageError, unknown
from rlmem.policies.encoders import LeafEncoder, check_batch, mlp
from rlmem.policies.normalizer import Normalizer

PRIVILEGED = "privileged"
ROOT = "obs"


def critic_only_leaves(
    spaces: Mapping[str, gym.Space], given: Sequence[str] | None, allowed: bool = True
) -> tuple[str, ...]:
    """The leaves that only a critic reads: those of the keys `given`, or of the key `privileged`.

    A key is the name of a leaf, or that of a part of a Dict, with or without the root `obs`. Raises
    `UsageError` for an unknown one, if no leaf is left, or if there are some and not `allowed`.
    """
    found = []
    for key in [PRIVILEGED] if given is None else given:
        under = [leaf for leaf in spaces if _is_under(leaf, key)]
        if not under and given is not None:
            raise unknown("leaf in critic_only:", key, spaces)
        found += under
    if found and not allowed:
        raise UsageError(
            f"only the critic may read {', '.join(found)}, and this algorithm cannot train one "
            "beside its memory (algorithms that can: ppo, amago; policy.critic_only=[] lets the "
            "agent itself read all leaves)"
        )
    if len(set(found)) == len(spaces):
        raise UsageError(f"critic_only leaves no leaf to the actor (leaves: {', '.join(spaces)})")
    return tuple(leaf for leaf in spaces if leaf in found)


def _is_under(leaf: str, key: str) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for name in (key, f"{ROOT}.{key}"))


class PrivilegedFeatures(nn.Module):
    """Features of a shared memory, joined with critic-only leaves, as features for a critic."""

    def __init__(
        self,
        spaces: dict[str, gym.Space],
        size: int,
        activation: str,
        normalizer: Normalizer | None,
    ) -> None:
        super().__init__()
        self.encoder = LeafEncoder(spaces, size, activation=activation)
        self.encoder.normalizer = normalizer
        self.join = mlp([2 * size, size], activation)

    def forward(
        self, features: Float[Tensor, "*N H"], obs: dict[str, Tensor]
    ) -> Float[Tensor, "*N H"]:
        names = "N" if features.dim() == 2 else "B T"
        check_batch(self.encoder.shapes, obs, features[..., 0], names)
        hidden = self.encoder(obs)
        return self.join(torch.cat([features, hidden], dim=-1))
