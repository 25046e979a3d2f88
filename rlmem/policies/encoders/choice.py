"""The encoder that a user chose: by name, by `MODULE:NAME`, as a class, or as a module."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import UsageError, unknown
from rlmem.imports import module_at, place_of
from rlmem.policies.encoders.base import SIZES, Encoder, LeafEncoder, registry
from rlmem.registry import options_of
from rlmem.spaces.discrete import first_values

# A name, `MODULE:NAME`, a class or function, or a module that is copied.
Choice = str | Callable[..., nn.Module]


class ModuleEncoder(Encoder):
    """Any module as an encoder: it maps leaves [N, ...] to features [N, output_size]."""

    def __init__(
        self, module: nn.Module, spaces: Mapping[str, gym.Space], output_size: int
    ) -> None:
        super().__init__(spaces, output_size)
        self.module = module

    def encode(self, obs: dict[str, Tensor]) -> Float[Tensor, "*N H"]:
        key, shape = next(iter(self.shapes.items()))
        batch = obs[key].shape[: obs[key].dim() - len(shape)]
        if len(batch) == 1:
            return self.module(self._own(obs))
        last = len(batch) - 1
        rows = {name: leaf.flatten(0, last) for name, leaf in self._own(obs).items()}
        return self.module(rows).unflatten(0, batch)

    def _own(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The leaves of `spaces`, without others that an environment may add."""
        return {key: obs[key] for key in self.spaces}

    def _description(self, key: str, space: gym.Space) -> str:
        return f"{space} → {type(self.module).__name__}{self._scaling(key, '')}"


def make_encoder(
    choice: Choice,
    spaces: Mapping[str, gym.Space],
    output_size: int,
    layers: int,
    activation: str,
    options: Mapping[str, Any] | None = None,
) -> Encoder:
    """The chosen encoder of these leaves; `layers` and `activation` as far as it takes them.

    Raises `UsageError` for an unknown name or option, and for features of a wrong shape.
    """
    if choice == "default" and not options:
        return LeafEncoder(spaces, output_size, layers, activation)
    name = choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
    if isinstance(choice, nn.Module):
        if options:
            raise UsageError("encoder_options are those of a class, and the encoder is a module")
        made: Any = copy.deepcopy(choice)
    else:
        factory, allowed = find(choice)
        given = {**_shared(name, allowed, layers, activation), **(options or {})}
        for key in given:
            if allowed is not None and (key not in allowed or key in SIZES):
                raise unknown(f"option of encoder {name!r}:", key, allowed.keys() - SIZES.keys())
        made = _call(name, factory, spaces, output_size, given)
    encoder = made if isinstance(made, Encoder) else ModuleEncoder(made, spaces, output_size)
    _check_features(name, encoder)
    return encoder


def find(choice: Choice) -> tuple[Callable[..., Any], dict[str, Any] | None]:
    """The factory of an encoder and its options with their defaults; None if it takes any."""
    if isinstance(choice, str):
        place, _, name = choice.rpartition(":")
        if not place:
            return registry.get(choice), registry.options(choice)
        module = module_at(place, f"unknown encoder {choice!r}")
        if not callable(factory := getattr(module, name, None)):
            own = [key for key, value in vars(module).items() if inspect.isclass(value)]
            raise unknown(f"encoder in {place}:", name, own)
    else:
        factory = choice
    parameters = inspect.signature(factory).parameters.values()
    if any(each.kind == each.VAR_KEYWORD for each in parameters):
        return factory, None
    return factory, options_of(factory)


def encoder_name(choice: Choice) -> str:
    """The text that stands for an encoder in a saved agent: a name, or `MODULE:NAME`.

    Raises `UsageError` for a module, and for a class or function that cannot be imported.
    """
    if isinstance(choice, str):
        return choice
    if isinstance(choice, nn.Module):
        raise UsageError("the encoder is a module, which cannot be saved: give its class instead")
    place = place_of(choice)
    if place is None:
        raise UsageError(
            f"the encoder {choice.__qualname__} cannot be imported, so it cannot be saved: define "
            "it at the top of a module or file"
        )
    return place


def _shared(
    name: str, allowed: Mapping[str, Any] | None, layers: int, activation: str
) -> dict[str, Any]:
    """The policy's own options that the encoder takes; a `UsageError` for lost `layers`."""
    shared = {"layers": layers, "activation": activation}
    if layers != 1 and "layers" not in (allowed or {}):
        raise UsageError(f"encoder {name!r} has no option layers, so encoder_layers must be 1")
    return {key: value for key, value in shared.items() if key in (allowed or {})}


def _call(
    name: str,
    factory: Callable[..., Any],
    spaces: Mapping[str, gym.Space],
    output_size: int,
    options: Mapping[str, Any],
) -> nn.Module:
    """The module that a factory makes; its exceptions are a `UsageError` of one line."""
    try:
        made = factory(dict(spaces), output_size, **options)
    except UsageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot make encoder {name!r}: {type(error).__name__}: {reason}") from (
            error
        )
    if not isinstance(made, nn.Module):
        raise UsageError(f"encoder {name!r} must be a torch.nn.Module, not {type(made).__name__}")
    return made


@torch.no_grad()
def _check_features(name: str, encoder: Encoder) -> None:
    """A `UsageError` unless two observations become features [2, output_size]."""
    device = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    obs = {key: _example(space).to(device) for key, space in encoder.spaces.items()}
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        found = encoder(obs)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        shapes = ", ".join(f"{key} {list(leaf.shape)}" for key, leaf in obs.items())
        raise UsageError(
            f"encoder {name!r} fails on leaves {shapes}: {type(error).__name__}: {reason}"
        ) from error
    finally:
        for module in training:
            module.training = True
    wanted = [2, encoder.output_size]
    given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if given != wanted:
        raise UsageError(
            f"encoder {name!r} gives {given}, not [N, output_size] = {wanted} (output_size is the "
            "policy's hidden_size)"
        )


def _example(space: gym.Space) -> Tensor:
    """Two equal observations of a leaf: zeros, or the values of the space next to them."""
    shape = tuple(space.shape or ())
    if isinstance(space, gym.spaces.Box):
        value = np.zeros(shape, space.dtype).clip(space.low, space.high)
    else:
        value = np.reshape(first_values(space), shape)
    return torch.as_tensor(np.stack([value, value]))
