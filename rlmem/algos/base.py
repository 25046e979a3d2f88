"""What an algorithm is to the trainer: it plays and learns, one iteration at a time."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from rlmem.policies import Policy
from rlmem.registry import Registry


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the weights are those from before that step."""


@runtime_checkable
class Algorithm(Protocol):
    """Plays in its environments and improves `policy`."""

    policy: Policy
    steps_per_iteration: int

    def iterate(self, progress: float) -> dict[str, float]:
        """Play `steps_per_iteration` steps and learn from them; returns metrics.

        `progress` (0 to 1) is the share of the whole training that is done, for schedules.
        Raises `NonFiniteLoss`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the policy's weights (tensors and plain values)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        ...


registry: Registry[Algorithm] = Registry("algo", "rlmem.algos")
register = registry.register
