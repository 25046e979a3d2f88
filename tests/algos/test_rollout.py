"""The collector against numbers that are known beforehand."""

from __future__ import annotations

import pytest
import torch

from rlmem import tree
from rlmem.algos.rollout import Collector
from rlmem.policies import ActorCritic
from tests.algos.counting import Counting


def collector(core: str = "gru", num_steps: int = 5) -> Collector:
    # Row 0 is cut off after 3 steps, row 1 terminates after 4, row 2 never ends.
    env = Counting([3, 4, 10**6], [True, False, False])
    policy = ActorCritic(env.observation_space, env.action_space, core=core, hidden_size=8)
    return Collector(env, policy, num_steps, seed=[0, 2, 4])


def test_rows_are_episodes_end_to_end():
    out = collector().collect()
    assert out.obs["obs"][0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    assert out.reward.tolist() == [[1, 2, 3, 1, 2], [1, 2, 3, 4, 1], [1, 2, 3, 4, 5]]
    assert out.start.int().tolist() == [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert out.truncated.int().tolist() == [[0, 0, 1, 0, 0], [0] * 5, [0] * 5]
    assert out.terminated.int().tolist() == [[0] * 5, [0, 0, 0, 1, 0], [0] * 5]


def test_the_next_row_goes_on_where_this_one_ended():
    rows = collector()
    rows.collect()
    out = rows.collect()
    assert out.obs["obs"][:, 0].tolist() == [[1, 2], [1, 1], [0, 5]]
    assert out.start[:, 0].tolist() == [False, False, False]


@pytest.mark.parametrize("core", ["gru", "lstm", "ffm"])
def test_the_row_read_again_is_what_was_played(core: str):
    rows = collector(core)
    for _ in range(2):
        out = rows.collect()
        dist, value = rows.policy(*out.rows(torch.arange(3)))
        torch.testing.assert_close(dist.log_prob(out.action), out.log_prob)
        torch.testing.assert_close(value, out.value)


def test_next_values_follow_the_episode_that_was_played():
    rows = collector()
    out = rows.collect()
    policy, state = rows.policy, rows.policy.initial_state(3)
    acts = []
    for t in range(5):
        acts.append(policy.act({"obs": out.obs["obs"][:, t]}, state, out.start[:, t]))
        state = acts[-1].state
    # Inside an episode: the value of the next observation.
    torch.testing.assert_close(out.next_value[2, :4], out.value[2, 1:])
    # Cut off after step 2: the value of the final observation (episode 0, time 3), memory kept.
    never = torch.zeros(3, dtype=torch.bool)
    final = {"obs": torch.tensor([[0.0, 3.0]]).expand(3, 2)}
    at_end = policy.value(final, acts[2].state, never)[0]
    torch.testing.assert_close(out.next_value[0, 2], at_end)
    assert not torch.isclose(at_end, out.value[0, 3])
    # At the end of the row: the value of the observation after it.
    after = policy.value(rows.obs, acts[4].state, rows.start)
    torch.testing.assert_close(out.next_value[2, 4], after[2])


def test_episode_returns_cross_rows():
    rows = collector()
    rows.collect()
    returns, lengths = rows.episodes()
    assert sorted(returns.tolist()) == [6, 10]
    assert sorted(lengths.tolist()) == [3, 4]
    rows.collect()
    returns, lengths = rows.episodes()
    # Row 0 ends twice more (steps 5 and 8), row 1 once; two of them began in the row before.
    assert sorted(returns.tolist()) == [6, 6, 10]
    assert sorted(lengths.tolist()) == [3, 3, 4]


def test_rows_picks_rows_of_everything():
    rows = collector("lstm")
    rows.collect()
    out = rows.collect()
    obs, state, start = out.rows(torch.tensor([2, 0]))
    assert torch.equal(obs["obs"], out.obs["obs"][[2, 0]])
    assert torch.equal(start, out.start[[2, 0]])
    for picked, whole in zip(tree.leaves(state), tree.leaves(out.state), strict=True):
        assert torch.equal(picked, whole[[2, 0]])
