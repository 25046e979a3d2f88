"""A replay shared out over ranks, and joined again, has the same rows with the same priorities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem.data.replay import Replay
from rlmem.data.replay_collector import ReplayCollector
from rlmem.data.replay_options import BATCHINGS
from rlmem.data.replay_shards import reshard_replay
from rlmem.policies import QPolicy
from tests.data.counting import Counting

# The episodes have different lengths, so there are more entries for some environments.
LENGTHS = [3, 4, 5, 60, 7, 9]
OPTIONS = {"batch_size": 4, "length": 5, "burn_in": 2, "stride": 3, "alpha": 0.9}


def collector(lengths: list[int], batching: str) -> ReplayCollector:
    torch.manual_seed(0)
    env, num_envs = Counting(lengths, [True, False] * (len(lengths) // 2)), len(lengths)
    policy = QPolicy(env.observation_space, env.action_space, core="gru", hidden_size=8)
    replay = OPTIONS | {"capacity": 60 * num_envs, "batching": batching}
    if batching != "segments":
        replay |= {"burn_in": 0, "stored_state": False}
    return ReplayCollector(env, policy, list(range(num_envs)), 1, 1, 0, replay)


def same(one: Any, other: Any) -> bool:
    """Two trees of tensors and values are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def restored(state: dict[str, Any], lengths: list[int], batching: str) -> Replay:
    replay = collector(lengths, batching).replay
    replay.load_state_dict(state, continued=True)
    return replay


@pytest.mark.parametrize("steps", [30, 100])  # rings with room, and full ones
@pytest.mark.parametrize("batching", BATCHINGS)
def test_shared_out_and_joined(batching: str, steps: int) -> None:
    whole = collector(LENGTHS, batching)
    for _ in range(steps):
        whole.collect()
    replay = whole.replay
    state = replay.state_dict()
    if replay.priorities:
        assert replay.states is not None
        replay.update_priorities(replay.segments.ids(), torch.rand(replay.segments.count))
        state = replay.state_dict()
    parts = [reshard_replay([state], first, 2) for first in (0, 2, 4)]
    ranks = [restored(part, LENGTHS[:2], batching) for part in parts]
    heads = [rank.storage.head for rank in ranks]
    assert len({int(head.max()) for head in heads}) > 1  # parts of different lengths
    assert torch.equal(torch.cat(heads), replay.storage.head)
    # Each has the rows of its environments.
    for number, rank in enumerate(ranks):
        for env in range(2):
            assert_rows(replay, 2 * number + env, rank, env)
    again = reshard_replay([rank.state_dict() for rank in ranks], 0, 6)
    joined = restored(again, LENGTHS, batching)
    for env in range(6):
        assert_rows(replay, env, joined, env)
    if replay.states and joined.states:
        ids, empty = replay.segments.ids(), replay.policy.initial_state(1)
        assert torch.equal(replay.states.read(ids, empty), joined.states.read(ids, empty))
    if batching != "segments":
        # The order of the episodes is that of the ranks.
        known = state["episodes"]["known"]
        state["episodes"]["known"] = known[torch.argsort(known[:, 0] // 2, stable=True)]
    for content in (state, again):  # free space may hold anything
        content["storage"].pop("leaves")
        content.pop("states", None)
        content.pop("form")
    assert same(again, state)


def assert_rows(one: Replay, env: int, other: Replay, its_env: int) -> None:
    """Two environments of two replays have the same entries."""
    slots, head = one.storage.slots, int(one.storage.head[env])
    assert int(other.storage.head[its_env]) == head
    used = slice(0, min(head, slots))
    for name, leaf in one.storage.leaves.items():
        rings = leaf.unflatten(0, (-1, slots))[env, used]
        assert torch.equal(
            rings, other.storage.leaves[name].unflatten(0, (-1, slots))[its_env, used]
        )
