"""Retention, use and interference: replays, and equality with the agent as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlmem import tree
from rlmem.diagnose.trained import Budget
from rlmem.diagnose.trained.recent import Recent
from rlmem.diagnose.trained.returns import Disturbed, interference, retention, use
from rlmem.diagnose.trained.subject import Subject, play
from rlmem.envs.base import Tensors
from rlmem.policies import Policy
from tests.diagnose.trained.agents import subject

ROWS, STEPS = 3, 9


def observations(agent: Subject) -> list[Tensors]:
    env = agent.make_env(ROWS)
    found = [env.reset([1, 3, 5])]
    for _ in range(STEPS - 1):
        found.append(env.step({"action": torch.zeros(ROWS, dtype=torch.int64)}).obs)
    return found


def fold(policy: Policy, rows: list[Tensors], state: Any) -> Any:
    """The last step of the policy on some observations from a state."""
    never = torch.zeros(ROWS, dtype=torch.bool)
    for obs in rows:
        act = policy.act(obs, state, never, True)
        state = act.state
    return act


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_memory_holds_the_last_steps(keep: int, swap: bool) -> None:
    agent = subject("gru", env="popgym-repeat")
    policy, rows = agent.policy, observations(agent)
    recent = Recent(policy, keep, swap)
    state: Any = recent.initial_state(ROWS)
    start = torch.ones(ROWS, dtype=torch.bool)
    for t in range(STEPS):
        act = recent.act(rows[t], state, start, True)
        state, start = act.state, torch.zeros_like(start)
        first = max(0, t - keep + 1)
        begin = policy.initial_state(ROWS)
        if swap and first > 0:
            whole = fold(policy, rows[:first], begin).state
            begin = tree.map(lambda leaf: leaf.roll(1, 0), whole)
        wanted = fold(policy, rows[first : t + 1], begin)
        torch.testing.assert_close(act.outputs()["logits"], wanted.outputs()["logits"])
    assert recent.longest == STEPS


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("algo", ["ppo", "dt"])
def test_memory_of_a_whole_episode_is_the_agent_itself(algo: str, greedy: bool) -> None:
    agent = subject("gru", algo=algo, env="popgym-repeat", wild=True)
    budget = Budget(episodes=4, deterministic=greedy)
    plain = play(agent, budget, lambda env: agent.policy)
    for swap in (False, True):
        kept = play(agent, budget, lambda env, swap=swap: Recent(agent.policy, 51, swap))
        assert np.array_equal(kept, plain)
    assert not np.array_equal(play(agent, budget, lambda env: Recent(agent.policy, 2)), plain)


def test_retention_ends_with_the_longest_episode() -> None:
    agent = subject("gru", options={"corridor_length": 6})
    found = retention(agent, Budget(episodes=5))
    assert found["longest"] == 7
    assert found["keep"] == [1, 2, 4]
    assert len(found["reset"]) == len(found["swapped"]) == 3
    alone = retention(agent, Budget(episodes=1))
    assert "swapped" not in alone


def test_long_memories_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlmem.diagnose.trained.returns.WORK", 7 * 5 * 2)
    found = retention(subject(options={"corridor_length": 6}), Budget(episodes=5))
    assert found["keep"] == [1, 2]
    assert found["left_out"] == "k of more than 2: too long"


@pytest.mark.parametrize("algo", ["ppo", "pqn", "sac"])
def test_memory_is_no_use_without_one(algo: str) -> None:
    found = use(subject("none", algo=algo), Budget(episodes=20))["returns"]
    assert found["with memory"] == found["without memory"]
    other = use(subject("gru", algo=algo, env="popgym-repeat", wild=True), Budget(episodes=4))[
        "returns"
    ]
    assert other["with memory"] != other["without memory"]


def test_a_twin_plays_beside_the_agent() -> None:
    agent, twin = subject("gru"), subject("none", options={"corridor_length": 2})
    budget = Budget(episodes=8)
    found = use(agent, budget, twin)["returns"]
    alone = use(twin, budget)["returns"]["with memory"]
    assert found["twin, fully observed"] == alone


def test_no_strange_step_is_the_agent_itself() -> None:
    agent, budget = subject("gru", env="popgym-repeat", wild=True), Budget(episodes=6, steps=4)
    found = interference(agent, budget)
    assert found["strange"] == [0, 1, 4]
    plain = use(agent, budget)["returns"]["with memory"]
    assert found["returns"][0] == plain
    assert found["returns"][2] != plain


def test_an_episode_begins_after_its_strange_steps() -> None:
    agent = subject("gru", env="popgym-repeat")
    rows = observations(agent)
    # One strange observation, so that its draw is known.
    pool = {"obs": torch.tensor([2])}
    disturbed = Disturbed(agent.policy, pool, 3)
    state = disturbed.initial_state(ROWS)
    start = torch.ones(ROWS, dtype=torch.bool)
    act = disturbed.act(rows[0], state, start, True)
    strange = [{"obs": torch.full((ROWS,), 2)}] * 3
    wanted = fold(agent.policy, [*strange, rows[0]], agent.policy.initial_state(ROWS))
    assert torch.equal(act.outputs()["logits"], wanted.outputs()["logits"])
    # Later starts are resets.
    again = disturbed.act(rows[1], act.state, start, True)
    fresh = fold(agent.policy, [rows[1]], agent.policy.initial_state(ROWS))
    assert torch.equal(again.outputs()["logits"], fresh.outputs()["logits"])
