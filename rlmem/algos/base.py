"""The interface between an algorithm and the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from rlmem.algos.nonfinite import Experience, large_input, nonfinite_input
from rlmem.compiled import Compiler
from rlmem.envs.base import Spaces
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, Policy
from rlmem.policies.normalizer import RunningMoments
from rlmem.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient is NaN or infinite; the weights are those before that update.

    The message ends with the first input of `batch` that is not finite, or else with a reward that
    is very large, if there is one; `finite_inputs` and `large_rewards` tell them apart. `row` is
    the word for a row of the batch.
    """

    def __init__(self, message: str, batch: Experience | None = None, row: str = "row") -> None:
        found = None if batch is None else nonfinite_input(batch, row)
        large = None if batch is None or found else large_input(batch, row)
        super().__init__(": ".join(filter(None, [message, found or large])))
        self.finite_inputs, self.large_rewards = found is None, large is not None


@runtime_checkable
class Algorithm(Protocol):
    """Collects experience in its environments and improves `policy`."""

    policy: Policy
    steps_per_iteration: int

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect `steps_per_iteration` steps and learn from them; returns metrics.

        `progress` (0 to 1) is the finished fraction of the training, for schedules.
        Raises `NonFiniteLoss`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for a resumed run, besides the policy's weights."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        ...


@runtime_checkable
class LearnsLater(Protocol):
    """An algorithm that collects experience before it learns."""

    @property
    def steps_until_learning(self) -> int:
        """The steps before the first update, at least; 0 after it."""
        ...


@runtime_checkable
class Compilable(Protocol):
    """An algorithm whose steps of collecting and minibatches a `Compiler` can run."""

    def compile(self, compiler: Compiler) -> None:
        """Run them with `compiler` from now on."""
        ...


def supports_all(action_space: Spaces) -> None:
    """No action space is unsupported."""


@dataclass(frozen=True)
class Requirements:
    """An algorithm's requirements on its policy and environment.

    `policy_options` are the algorithm's options that its policy takes too. With `needs_history`
    the policy reads the previous action and reward, as `Trials` adds them to observations.
    `unsupported_reason(action_space)` is a short reason, or None for a supported space.
    `estimates_returns` says that `policy.value` estimates returns in the units of the rewards.
    `ranks` says that several ranks may train together.
    """

    policy_type: type[Policy] = ActorCritic
    policy_options: tuple[str, ...] = ()
    needs_history: bool = False
    unsupported_reason: Callable[[Spaces], str | None] = supports_all
    estimates_returns: bool = False
    ranks: bool = False


registry: Registry[Algorithm] = Registry("algo", "rlmem.algos")
_requirements: dict[str, Requirements] = {}


def register(name: str, needs: Requirements | None = None) -> Callable[[F], F]:
    """Decorator that registers an algorithm's class with its requirements."""

    def put(factory: F) -> F:
        registry.register(name)(factory)
        _requirements[name] = needs or Requirements()
        return factory

    return put


def requirements(name: str) -> Requirements:
    """The requirements of an algorithm; a `UsageError` lists the nearest names if it is unknown."""
    registry.get(name)
    return _requirements[name]


def require_supported(name: str, action_space: Spaces) -> None:
    """Raises a `UsageError` with the algorithms that fit, if this one does not."""
    if reason := requirements(name).unsupported_reason(action_space):
        fitting = [
            n for n in registry.names() if not _requirements[n].unsupported_reason(action_space)
        ]
        raise UsageError(
            f"algo {name!r} does not fit this environment: {reason}, and its actions are "
            f"{', '.join(map(str, action_space.values()))} (algorithms that fit: "
            f"{', '.join(fitting)})"
        )


def require_statistics(moments: RunningMoments | None, normalize_reward: bool) -> None:
    """Raises a `UsageError` if rewards are to be normalised and the policy has no statistics."""
    if normalize_reward and moments is None:
        raise UsageError("normalize_reward=True is an option of the policy too: give it to both")
