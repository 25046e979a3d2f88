"""Memory chain, MQAR and joint recall: observations by hand, descriptions."""

from __future__ import annotations

import torch

from rlmem import envs


def test_memory_chain_observations_are_those_of_bsuite() -> None:
    env = envs.make("memory-chain", num_envs=64, length=4, size=2)
    rows = [env.reset(0)["obs"]]
    bits, query = 2 * env.state.bits.T - 1, env.state.query[0]
    assert {tuple(row) for row in bits.tolist()} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    actions = (bits.gather(1, query[:, None])[:, 0] > 0).long()
    steps = [env.step({"action": actions}) for _ in range(5)]
    rows += [step.final_obs["obs"] for step in steps]
    time = [1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    for t, row in enumerate(rows):
        assert (row[:, 0] == time[t]).all()
        assert torch.equal(row[:, 1], query * 1.0 if t == 4 else torch.zeros(64))
        assert torch.equal(row[:, 2:], bits * 1.0 if t < 2 else torch.zeros(64, 2))
    assert [step.reward.unique().tolist() for step in steps] == [[0.0]] * 4 + [[1.0]]
    assert set(query.tolist()) == {0, 1}


def test_mqar_keys_are_distinct_and_queries_are_shown_keys() -> None:
    env = envs.make("mqar", num_envs=512, pairs=3, queries=2, keys=4, values=2, delay=1)
    tokens = torch.stack(
        [env.reset(0)["obs.token"]]
        + [env.step({"action": torch.zeros(512).long()}).final_obs["obs.token"] for _ in range(9)]
    )
    keys, values, asked = tokens[0:6:2], tokens[1:6:2], tokens[7:9]
    assert (tokens[6] == env.blank).all()
    assert (tokens[9] == env.blank).all()
    assert set(keys.unique().tolist()) == {0, 1, 2, 3}
    assert set(values.unique().tolist()) == {4, 5}
    for column in range(512):
        shown = keys[:, column].tolist()
        queried = asked[:, column].tolist()
        assert len(set(shown)) == 3
        assert len(set(queried)) == 2
        assert set(queried) <= set(shown)
    # Every order of queries occurs: 3 * 2 choices of two pairs.
    places = (keys[None] == asked[:, None]).long().argmax(1)
    assert len(places.unique(dim=1).T) == 6


def test_descriptions_of_tokens() -> None:
    env = envs.make("mqar", num_envs=1, pairs=1, queries=1, keys=1, values=2)
    texts = [env.describe_obs(env.reset(0), 0)]
    value = int(env.state.answer[2][0])
    hidden = [env.reveal(0)]
    for _ in range(2):
        texts.append(env.describe_obs(env.step({"action": torch.tensor([0])}).obs, 0))
        hidden.append(env.reveal(0))
    assert texts == ["k0", f"v{value}", "k0 ?"]
    assert hidden == ["", "", str(value)]
    env = envs.make("joint-recall", num_envs=1, contexts=1, keys=1, queries=1, delay=1)
    texts = [env.describe_obs(env.reset(0), 0)]
    for _ in range(5):
        texts.append(env.describe_obs(env.step({"action": torch.tensor([0])}).obs, 0))
    assert texts == ["c0", "k0", texts[2], "_", "c0", "k0 ?"]
    assert texts[2] == f"v{int(env.state.answer[5][0])}"


def test_descriptions_of_bits() -> None:
    env = envs.make("memory-chain", num_envs=1, length=2, size=3)
    text = env.describe_obs(env.reset(0), 0)
    bits = "".join(map(str, env.state.bits[:, 0].tolist()))
    query = int(env.state.query)
    assert text == f"2 left bits {bits}"
    assert env.reveal(0) == f"bits {bits}, bit {query} is asked for"
    act = {"action": torch.tensor([0])}
    assert env.describe_obs(env.step(act).obs, 0) == f"2 left bits {bits}"
    assert env.describe_obs(env.step(act).obs, 0) == f"1 left bit {query}?"
