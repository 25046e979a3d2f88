"""Probes: known answers of frame stacks, ridge regression, facts and their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.diagnose.trained import Budget, probes
from rlmem.diagnose.trained.facts import MAX_FACTS, facts_of
from rlmem.diagnose.trained.probes import fold
from rlmem.diagnose.trained.ridge import predict
from rlmem.envs.base import find_wrapped
from rlmem.envs.meta.task_env import TaskEnv
from tests.diagnose.trained.agents import subject


@pytest.fixture(scope="module")
def suits() -> dict[str, Any]:
    """Probes of an untrained stack of three frames, whose memory after a step has two of them."""
    torch.manual_seed(0)
    agent = subject("frame_stack", env="popgym-repeat", core_options={"frames": 3})
    return probes.analyse(agent, Budget(episodes=60, steps=20))


def scores(result: dict[str, Any], name: str, source: str) -> list[float]:
    # The first part has the steps before there are as many cards.
    return [each[source].value for each in result["facts"][name][1:]]


def test_the_present_card_is_in_the_observation(suits: dict[str, Any]) -> None:
    assert suits["parts"][0][0] == 0
    assert suits["parts"][-1][1] == 19
    assert min(scores(suits, "cards[3]", "observation")) == 1.0
    assert max(scores(suits, "cards[2]", "observation")) < 0.5


def test_a_memory_has_its_frames_and_no_other(suits: dict[str, Any]) -> None:
    for card in ("cards[3]", "cards[2]"):
        assert min(scores(suits, card, "memory")) == 1.0
    for card in ("cards[1]", "cards[0]"):
        assert max(scores(suits, card, "memory")) < 0.5
    chances = [each["chance"] for each in suits["facts"]["cards[0]"][1:]]
    assert all(0.15 < chance < 0.4 for chance in chances)


def test_numbers_are_scored_by_their_variance(suits: dict[str, Any]) -> None:
    # Shares of the suits in the deck: their number of values makes them numbers.
    # Nothing varies in the first part but the present card.
    assert suits["facts"]["cards[0]"][0] is None
    assert {each["classes"] for each in suits["facts"]["cards[0]"][1:]} == {4}
    assert {each["classes"] for each in suits["facts"]["left[0]"]} == {0}
    for each in suits["facts"]["left[0]"]:
        assert each["memory"].low <= each["memory"].value <= each["memory"].high <= 1


def test_ridge_regression_finds_a_linear_map_and_no_other() -> None:
    x = torch.randn(400, 10)
    x[:, 3] = 7.0  # constant
    y = torch.stack([x[:, 0] - 2 * x[:, 5] + 3, torch.randn(400)], dim=1).double()
    train = torch.arange(400) < 300
    held_out = torch.arange(400) < 60
    found = predict(x, y, train, held_out)
    error = (found - y)[~train].square().mean(0)
    assert error[0] < 1e-6
    assert 0.8 < error[1] < 1.3


def test_more_features_than_rows() -> None:
    common = torch.randn(40, 2)
    x = common @ torch.randn(2, 300) + 1e-3 * torch.randn(40, 300)
    train = torch.arange(40) < 30
    found = predict(x, common.double(), train, torch.arange(40) < 8)
    torch.testing.assert_close(found, common.double(), rtol=0, atol=0.1)


def test_large_memories_are_folded_linearly() -> None:
    x, y = torch.randn(50, 5000), torch.randn(50, 5000)
    assert fold(x).shape == (50, probes.FEATURES)
    torch.testing.assert_close(fold(2 * x + y), 2 * fold(x) + fold(y), rtol=1e-3, atol=1e-3)
    small = torch.randn(3, probes.FEATURES)
    assert fold(small) is small
    # Inner products are kept on average.
    kept = (fold(x) * fold(x)).sum(1) / (x * x).sum(1)
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_facts_of_the_hidden_state() -> None:
    env = envs.make("popgym-repeat", num_envs=2, privileged=True)
    read = facts_of(env)
    assert read is not None
    obs = env.reset(0)
    found = read(obs)
    assert list(found) == [*(f"cards[{i}]" for i in range(4)), *(f"left[{i}]" for i in range(4))]
    assert np.array_equal(found["cards[3]"], obs["obs"].numpy())


def test_facts_of_a_hidden_task() -> None:
    env = envs.make("meta-point-robot", num_envs=3)
    read = facts_of(env)
    assert read is not None
    found = read(env.reset(0))
    inner: TaskEnv = find_wrapped(env, TaskEnv)
    fields = inner.task._fields
    assert {name.partition("[")[0] for name in found} <= set(fields)
    assert all(len(values) == 3 for values in found.values())


def test_many_facts_are_cut() -> None:
    env = envs.make("popgym-battleship", num_envs=2, privileged=True)
    read = facts_of(env)
    assert read is not None
    assert len(read(env.reset(0))) == MAX_FACTS


def test_facts_in_words() -> None:
    env = envs.make("mqar", num_envs=2)
    read = facts_of(env)
    assert read is not None
    found = read(env.reset(0))
    assert [*found] == ["reveal"]
    assert found["reveal"].dtype.kind == "U"


def test_a_critic_with_privileged_leaves_does_not_leak() -> None:
    options = {"corridor_length": 3, "privileged": True}
    agent = subject("none", options=options, hidden={}, separate_critic=True)
    # The critic's memory alone would know the goal.
    critic = subject("gru", options=options, hidden={}, separate_critic=True)
    assert agent.policy.critic_only
    found = probes.analyse(critic, Budget(episodes=60))["facts"]["privileged[0]"]
    env = critic.make_env(5)
    start = torch.ones(5, dtype=torch.bool)
    obs = env.reset(0)
    seen = {key: leaf for key, leaf in obs.items() if key not in critic.policy.critic_only}
    state = critic.policy.initial_state(5)
    after = critic.policy.act(seen, state, start, True).state
    assert torch.equal(after[1], state[1])
    assert found[0]["memory"].value == 1.0  # the cue itself
