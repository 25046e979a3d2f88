"""The state of environments on tensors: in words for players, and as tensors for checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import CannotContinue, Tensors
from rlmem.envs.counter_rng import RandomSteps
from rlmem.envs.observation_check import ObservationCheck
from rlmem.ranks import shards

# Carried by environments that end their episodes by themselves: for each one the row of its next
# episode in a pool, `spare * num_envs + environment`, and the steps until the pool may be empty.
NEXT, LEFT = "_next", "_left"


class WithState(ABC):
    """Descriptions, `state_dict` and `load_state_dict` of an environment on tensors.

    The state is `state`, the streams of random numbers, and the attributes in `carried`: tensors or
    plain values that change in `step`. A subclass with more of them extends the list. A `fixed`
    state is that of the start of the episodes, which need not be saved.
    """

    num_envs: int
    device: torch.device
    key: Tensor | None
    episode: Tensor
    random_steps: RandomSteps
    state: Any
    carried: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[bool] = False
    # Steps can be captured: see `compiled.live`.
    replayable: ClassVar[bool] = True
    countdowns: ClassVar[tuple[str, ...]] = ()
    _obs_check: ObservationCheck | None

    def close(self) -> None:  # noqa: B027
        """Does nothing: there are no resources to free."""

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The observation of environment `row` in words."""
        return " ".join(str(leaf[row].tolist()) for leaf in obs.values())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The action in environment `row` in words."""
        return " ".join(str(leaf[row].tolist()) for leaf in action.values())

    def reveal(self, row: int) -> str:
        """The present hidden state of environment `row` in words."""
        return ""

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and plain values of the present episodes; None before the first `reset`."""
        if self.key is None:
            return None
        values = {name: getattr(self, name) for name in ("key", "episode", *self.carried)}
        return {
            "env": type(self).__name__,
            "values": {name: _copied(value) for name, value in values.items()},
            "random_steps": self.random_steps.state_dict(),
            "steps": self._obs_check.steps if self._obs_check else 0,
            "state": [] if self.fixed else [_copied(leaf) for leaf in tree.leaves(self.state)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes of a `state_dict`; `CannotContinue` if it is of another kind."""
        values = state["values"]
        if state["env"] != type(self).__name__ or values.keys() != {
            "key",
            "episode",
            *self.carried,
        }:
            raise CannotContinue("the environment is another one")
        if len(values["key"]) != self.num_envs:
            raise CannotContinue(f"num_envs was {len(values['key'])}")
        for name, value in values.items():
            setattr(self, name, _copied(value, self.device))
        assert self.key is not None
        self.random_steps = RandomSteps(self.key)
        self.random_steps.load_state_dict(state["random_steps"])
        if self._obs_check:
            self._obs_check.steps = state["steps"]
        drawn = self._draw_again()
        self.state = drawn if self.fixed else _like(drawn, state["state"])

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The state of these environments, from number `first` on in the states of all ranks."""
        names = states[0]["values"]
        values = {name: [state["values"][name] for state in states] for name in names}
        steps = [state["random_steps"] for state in states]
        drawn = {name: [each[name] for each in steps] for name in steps[0]}
        before, now = len(values["key"][0]), self.num_envs
        leaves = zip(*(self.apart(state["state"], before) for state in states), strict=True)
        likes = [] if self.fixed else self.apart(list(tree.leaves(self.state)), now)
        return {
            "env": states[0]["env"],
            "values": {n: self._value(n, parts, first) for n, parts in values.items()},
            "random_steps": {
                name: _same(parts) if name == "word" else shards.rows(parts, first, now, -1)
                for name, parts in drawn.items()
            },
            "steps": _same([state["steps"] for state in states]),
            "state": self.together(
                [
                    self._leaf(parts, like, before, first)
                    for parts, like in zip(leaves, likes, strict=True)
                ]
            ),
        }

    def apart(self, leaves: list[Tensor], num_envs: int) -> list[Tensor]:
        """The leaves of a state, with one row for each of `num_envs` environments, which depends on
        no other environment; a subclass whose leaves are not like that changes them.
        """
        return leaves

    def together(self, leaves: list[Tensor]) -> list[Tensor]:
        """The inverse of `apart`, for these environments."""
        return leaves

    def _value(self, name: str, parts: list[Any], first: int) -> Any:
        """One of `carried` for these environments."""
        if name == LEFT:
            return 0  # the next step counts again
        if not isinstance(parts[0], Tensor):
            return _same(parts)
        if name == NEXT:
            spare = shards.rows([part // len(part) for part in parts], first, self.num_envs)
            return spare * self.num_envs + torch.arange(self.num_envs)
        return shards.rows(parts, first, self.num_envs)

    def _leaf(self, parts: Sequence[Tensor], like: Tensor, before: int, first: int) -> Tensor:
        """A leaf of the state like that of these environments; the others had `before` each."""
        dim = shards.row_dim(parts[0].shape, like.shape, (before, self.num_envs))
        if dim is None:
            raise CannotContinue("it had other ranks, and its state cannot be shared out anew")
        return shards.rows(parts, first, self.num_envs, dim)

    @abstractmethod
    def _draw_again(self) -> Any:
        """States like those of the present episodes at their starts, from `key` and `episode`.

        Also draws again everything else that is made from these two.
        """


def _same(values: Sequence[Any]) -> Any:
    """The value that all ranks have; `CannotContinue` if they differ."""
    if any(value != values[0] for value in values):
        raise CannotContinue("its ranks have stopped at different places")
    return values[0]


def _like(drawn: Any, leaves: list[Tensor]) -> Any:
    """A state with the structure of `drawn` and these leaves."""
    if [leaf.shape for leaf in tree.leaves(drawn)] != [leaf.shape for leaf in leaves]:
        raise CannotContinue("the options of the environment were others")
    rest = iter(leaves)
    return tree.map(lambda leaf: _copied(next(rest), leaf.device), drawn)


def _copied(value: Any, device: torch.device | None = None) -> Any:
    """A copy of a tensor, with its strides: sums in another order may differ in their last bit."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if device is None else value.to(device, copy=True)
