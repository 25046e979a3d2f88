"""Finds the network, loss or transform in which a module runs: for errors, and for burn-in.

torchrl tells a module neither the network that contains it nor the loss that runs it. Both are on
the stack. Looking costs about 1 microsecond per frame, so it is done only if there is a reason.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs.transforms import BurnInTransform

from rlmem.errors import UsageError

Module = TypeVar("Module", bound=nn.Module)

# The modules that have run so far, and keep their states under a key.
_modules: dict[NestedKey, WeakSet[Any]] = {}


def rivals(module: Module, keys: Iterable[NestedKey]) -> set[Module]:
    """Other modules that keep their states under one of `keys`; `module` is noted as one of them.

    Most are no conflict: copies of the same network, one that acts and one that is trained.
    """
    found: set[Module] = set()
    for key in keys:
        alike = _modules.setdefault(key, WeakSet())
        if module not in alike:
            alike.add(module)
        if len(alike) > 1:
            found |= set(alike)
    return found - {module}


def refuse_shared_keys(others: set[Module], keys: Iterable[NestedKey]) -> None:
    """Raise a `UsageError` if the running network or loss also contains one of `others`."""
    for _, owner in _running((TensorDictSequential, *_losses())):
        if any(module in others for module in _contained(owner)):
            raise UsageError(
                f"two memories in one {type(owner).__name__} keep their states under the same "
                f"keys, {', '.join(map(repr, keys))}: each would read or overwrite the other's. "
                "Give one of them another out_key, or name its states in in_keys"
            )


def dropped(keys: Sequence[NestedKey]) -> UsageError | None:
    """The error for `keys` that the running loss was given, and did not pass on; None if not."""
    for found, loss in _running(_losses()):
        given = [*found.values(), *found.get("args", ()), *found.get("kwargs", {}).values()]
        batches = [each for each in given if isinstance(each, TensorDictBase)]
        lost = [key for key in keys if any(batch.get(key, None) is not None for batch in batches)]
        if lost:
            names = ", ".join(map(repr, lost))
            return UsageError(
                f"{type(loss).__name__} was given {names}, but drops it before it runs this "
                "network: such losses select the keys that the actor reads, "
                f"`select(*actor.in_keys)`. Put KeepKeys({names}) of rlmem.torchrl into the actor, "
                "so that it reads them (see docs/torchrl.md, Losses that drop a critic's state)"
            )
    return None


def in_burn_in() -> bool:
    """Whether torchrl's `BurnInTransform` is running."""
    return any(True for _ in _running((BurnInTransform,)))


def _losses() -> tuple[type, ...]:
    """torchrl's class of losses; empty if it was never imported: importing it takes long."""
    objectives = sys.modules.get("torchrl.objectives")
    return () if objectives is None else (objectives.LossModule,)


def _contained(owner: TensorDictModuleBase) -> Iterator[nn.Module]:
    """All modules of a network, or of the networks of a loss, which are not its submodules."""
    yield from owner.modules()
    for network in vars(owner).values():
        if isinstance(network, nn.Module):
            yield from network.modules()


def _running(kinds: tuple[type, ...]) -> Iterator[tuple[dict[str, Any], Any]]:
    """The local variables and the object of each method on the stack, of an object of `kinds`."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            found = frame.f_locals
            if isinstance(found.get("self"), kinds):
                yield found, found["self"]
        frame = frame.f_back
