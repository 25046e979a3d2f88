"""One step of an agent with named tensors: observations and state in, action and state out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlmem import tree
from rlmem.envs.base import Tensors
from rlmem.envs.spaces import Leaf
from rlmem.policies import Policy
from rlmem.runs.export.history import Field, History

NEXT = "next_"


@runtime_checkable
class Exportable(Protocol):
    """An `rlmem.runs.agent.Agent`, which imports this package."""

    policy: Policy
    spec: Any
    env: Any

    def save(self, path: str | Path) -> None: ...


class Step(nn.Module):
    """One step of an agent for N environments; all tensors have names and are [N, ...].

    Inputs are the leaves of the observation in the form of the environment's space, `start`, the
    leaves of the state (`state`, or `state.NAME`), and those of `History`. Outputs are the leaves
    of the action in the form of its space, the tensors that it was chosen by (`Act.outputs`), and
    the next state, named as the state with the prefix `next_`.

    A complex leaf of the state is a real tensor with real and imaginary parts in the last
    dimension. Inputs that are not in `only` are zero and get no next value.
    """

    def __init__(
        self, agent: Exportable, deterministic: bool, only: Collection[str] | None = None
    ) -> None:
        super().__init__()
        self.policy = copy.deepcopy(agent.policy).cpu().float().eval().requires_grad_(False)
        self.env = copy.deepcopy(agent.env)
        self.deterministic = deterministic
        self.history = History(agent.spec, self.env)
        self.first = self.policy.initial_state(1)
        self.states = dict(named("state", self.first))
        self.fields = list(self._fields())
        self.only = {field.name for field in self.fields} if only is None else set(only)

    @property
    def inputs(self) -> list[Field]:
        """All inputs, in their order."""
        return [field for field in self.fields if field.name in self.only]

    def example(self, rows: int) -> Tensors:
        """Inputs of zeros, with which every environment starts."""
        return {
            field.name: torch.full((rows, *field.shape), field.name == "start", dtype=field.dtype)
            for field in self.inputs
        }

    def forward(self, given: Tensors) -> Tensors:
        start = given["start"]
        given = given | {
            field.name: torch.zeros((start.shape[0], *field.shape), dtype=field.dtype)
            for field in self.fields
            if field.name not in self.only
        }
        obs = {leaf.name: _read(leaf, given[leaf.name]) for leaf in self.env.obs.leaves}
        carried = {field.name: given[f"state.{field.name}"] for field in self.history.carried}
        leaves, after = self.history.leaves(given, carried, start)
        state = self._state(given)
        act = self.policy.act(obs | leaves, state, start, self.deterministic)
        actions = self.env.action.leaves
        outputs = {leaf.name: _write(leaf, act.action[leaf.name]) for leaf in actions}
        outputs |= act.outputs()
        states = {name: real(leaf) for name, leaf in named("state", act.state)}
        for field in self.history.carried:
            taken = act.action.get(field.name)
            value = after[field.name] if taken is None else taken.to(field.dtype)
            states[f"state.{field.name}"] = value
        return outputs | {NEXT + name: x for name, x in states.items() if name in self.only}

    def _fields(self) -> Iterator[Field]:
        for leaf in self.env.obs.leaves:
            yield Field(leaf.name, _dtype(leaf.source.dtype), tuple(leaf.source.shape or ()))
        yield Field("start", torch.bool, ())
        yield from self.history.inputs
        for name, leaf in self.states.items():
            pairs = real(leaf)
            yield Field(name, pairs.dtype, tuple(pairs.shape[1:]))
        for field in self.history.carried:
            yield field._replace(name=f"state.{field.name}")

    def _state(self, given: Tensors) -> Any:
        """The policy's state made of its named leaves."""
        leaves = iter(self.states)

        def take(first: Tensor) -> Tensor:
            leaf = given[next(leaves)]
            return torch.view_as_complex(leaf) if first.is_complex() else leaf

        return tree.map(take, self.first)


def named(name: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    """The leaves of a state with their names: those of named tuples, or their numbers."""
    if isinstance(state, Tensor):
        yield name, state
        return
    keys = getattr(state, "_fields", range(len(state)))
    for key, part in zip(keys, state, strict=True):
        yield from named(f"{name}.{key}", part)


def real(leaf: Tensor) -> Tensor:
    """A leaf of a state as a real tensor."""
    return torch.view_as_real(leaf) if leaf.is_complex() else leaf


def _dtype(dtype: Any) -> torch.dtype:
    """The torch dtype of a numpy one."""
    return torch.from_numpy(np.zeros(0, dtype)).dtype


def _read(leaf: Leaf, x: Tensor) -> Tensor:
    """Samples of an observation's space as the policy reads them (see `Leaf.rows`)."""
    x = x.to(_dtype(leaf.dtype)).reshape(-1, *leaf.shape)
    return x if leaf.offset is None else x - torch.from_numpy(leaf.offset)


def _write(leaf: Leaf, x: Tensor) -> Tensor:
    """The policy's actions as samples of the action's space (see `ActionSpace.write`)."""
    if leaf.offset is not None:
        x = x + torch.from_numpy(leaf.offset)
    space = leaf.source
    x = x.to(_dtype(space.dtype)).reshape(-1, *(space.shape or ()))
    if isinstance(space, Box) and space.dtype != np.float32:
        # Rounding to float32 may have widened the bounds.
        x = x.clamp(torch.from_numpy(space.low), torch.from_numpy(space.high))
    return x
