"""The place of a collector in its episodes: for a run that goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rlmem import tree
from rlmem.envs.base import CannotContinue, Tensors, VecEnv, load_state, reshard, state_of
from rlmem.ranks import shards


def save_place(
    env: VecEnv, obs: Tensors, start: Tensor, memory: Any, **more: Any
) -> dict[str, Any]:
    """`{"place": ...}`: the episodes of `env`, its newest observations and starts, and the memory
    before them, with further values; an empty dict if the episodes cannot be saved.
    """
    state = state_of(env)
    if state is None:
        return {}
    place = {
        "env": state,
        "obs": {key: leaf.clone() for key, leaf in obs.items()},
        "start": start.clone(),
        "memory": [leaf.clone() for leaf in tree.leaves(memory)],
    }
    return {"place": place | more}


def load_place(
    place: dict[str, Any], env: VecEnv, obs: Tensors, memory: Any
) -> tuple[Tensors, Tensor, Any]:
    """Put `env` into the place; returns its observations, starts and memory.

    `obs` and `memory` are examples. Raises `CannotContinue` if the place does not fit them.
    """
    found, leaves = place["obs"], place["memory"]
    if {key: _form(leaf) for key, leaf in obs.items()} != {k: _form(x) for k, x in found.items()}:
        raise CannotContinue("the observations were others")
    if [_form(leaf) for leaf in tree.leaves(memory)] != [_form(leaf) for leaf in leaves]:
        raise CannotContinue("the memory was another one")
    load_state(env, place["env"])
    rest = iter(leaves)
    return (
        {key: leaf.to(env.device, copy=True) for key, leaf in found.items()},
        place["start"].to(env.device, copy=True),
        tree.map(lambda like: next(rest).to(like.device, copy=True), memory),
    )


def reshard_place(places: Sequence[dict[str, Any]], env: VecEnv, first: int) -> dict[str, Any]:
    """The place of `env`, whose episodes are those from number `first` on in all ranks' places.

    Raises `CannotContinue` if its episodes cannot be shared out anew.
    """
    rest = [{key: part for key, part in place.items() if key != "env"} for place in places]
    state = reshard(env, [place["env"] for place in places], first)
    return {"env": state, **shards.tree_rows(rest, first, env.num_envs)}


def _form(leaf: Tensor) -> tuple[Any, ...]:
    return leaf.dtype, tuple(leaf.shape)
