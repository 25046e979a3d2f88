"""The replay of a run, shared out anew when it goes on with another number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlmem.ranks import shards

State = dict[str, Any]


def reshard_replay(states: Sequence[State], first: int, count: int) -> State:
    """The `Replay.state_dict` of `count` environments, from number `first` on in all ranks' states.

    Every environment keeps its entries, segments and priorities. The replays are in memory.
    """
    if not all(states):
        return {}
    one = states[0]
    found = {name: one[name] for name in ("stride", "per_env", "form")}
    found["storage"] = _storage([state["storage"] for state in states], first, count)
    for name in ("latest", "sums"):
        found[name] = shards.tree_rows([state[name] for state in states], first, count)
    if "episodes" in one:
        found["episodes"] = _episodes([state["episodes"] for state in states], first, count)
    # Segments are numbered environment by environment.
    each, begin, some = one["per_env"], first * one["per_env"], count * one["per_env"]
    if "states" in one:
        found["states"] = shards.tree_rows([state["states"] for state in states], begin, some)
    if "priorities" in one:
        parts = [state["priorities"] for state in states]
        assert all(len(part["mass"]) % each == 0 for part in parts)
        found["priorities"] = {
            "mass": shards.rows([part["mass"] for part in parts], begin, some),
            "highest": max(part["highest"] for part in parts),
            "alpha": parts[0]["alpha"],
        }
    return found


def _storage(parts: Sequence[State], first: int, count: int) -> State:
    """The rings of these environments, filled up to the same length."""
    leaves: dict[str, Tensor] = {}
    for name in parts[0]["leaves"]:
        rings = [part["leaves"][name] for part in parts]
        most = max(ring.shape[1] for ring in rings)
        # Entry e is in place e % most: a shorter ring has not overwritten any of its entries.
        filled = [
            torch.cat([ring, ring.new_zeros(len(ring), most - ring.shape[1], *ring.shape[2:])], 1)
            for ring in rings
        ]
        leaves[name] = shards.rows(filled, first, count)
    numbers = {
        n: shards.rows([part[n] for part in parts], first, count) for n in ("head", "oldest")
    }
    return {**numbers, "leaves": leaves}


def _episodes(parts: Sequence[State], first: int, count: int) -> State:
    """The table of the episodes of these environments."""
    tables, before = [], 0
    for part in parts:
        tables.append(part["known"] + torch.tensor([before, 0, 0]))
        before += len(part["open"])
    table = torch.cat(tables)
    table = table[(table[:, 0] >= first) & (table[:, 0] < first + count)]
    return {
        "open": shards.rows([part["open"] for part in parts], first, count),
        "known": table - torch.tensor([first, 0, 0]),
    }
