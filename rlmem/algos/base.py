"""What an algorithm is to the trainer: it plays and learns, one iteration at a time."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from rlmem.envs.base import Spaces
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, Policy
from rlmem.registry import Registry


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the weights are those from before that step."""


@runtime_checkable
class Algorithm(Protocol):
    """Plays in its environments and improves `policy`.

    Of the class (or factory) the trainer may ask four things, all of which may be missing:
    `policy_type`, the class of its policy (`ActorCritic`); `policy_options`, the names of options
    which that class takes too (none); `reads_past`, whether the policy reads the previous action
    and reward as `Trials` gives them (False); and `misfit(action_space)`, which says in a few words
    what an action space lacks for it, or None (None).
    """

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


def policy_type(name: str) -> type[Policy]:
    """The class of the policies of an algorithm."""
    return getattr(registry.get(name), "policy_type", ActorCritic)


def policy_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of an algorithm's options that its policy takes too."""
    wanted = getattr(registry.get(name), "policy_options", ())
    return {key: options[key] for key in wanted if key in options}


def reads_past(name: str) -> bool:
    """Whether an algorithm's policy wants to be told the previous action and reward."""
    return getattr(registry.get(name), "reads_past", False)


def misfit(name: str, action_space: Spaces) -> str | None:
    """What an action space lacks for an algorithm; None where it fits."""
    ask = getattr(registry.get(name), "misfit", None)
    return None if ask is None else ask(action_space)


def require_fit(name: str, action_space: Spaces) -> None:
    """A `UsageError` that says which algorithms fit, if this one does not."""
    if lacking := misfit(name, action_space):
        fitting = [other for other in registry.names() if not misfit(other, action_space)]
        raise UsageError(
            f"algo {name!r} does not fit this environment: {lacking}, and its actions are "
            f"{', '.join(map(str, action_space.values()))} (algorithms that fit: "
            f"{', '.join(fitting)})"
        )


registry: Registry[Algorithm] = Registry("algo", "rlmem.algos")
register = registry.register
