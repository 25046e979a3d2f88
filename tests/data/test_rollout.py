"""The collector on an environment with known values."""

from __future__ import annotations

import pytest
import torch

from rlmem import tree
from rlmem.data.rollout import Collector
from rlmem.policies import ActorCritic
from tests.data.counting import Counting


def collector(core: str = "gru", num_steps: int = 5) -> Collector:
    # Row 0 is truncated after 3 steps, row 1 terminates after 4, row 2 never ends.
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


def test_the_next_row_continues_this_one():
    rows = collector()
    rows.collect()
    out = rows.collect()
    assert out.obs["obs"][:, 0].tolist() == [[1, 2], [1, 1], [0, 5]]
    assert out.start[:, 0].tolist() == [False, False, False]


@pytest.mark.parametrize("core", ["gru", "lstm", "ffm"])
def test_a_scan_of_the_row_equals_the_collected_steps(core: str):
    rows = collector(core)
    for _ in range(2):
        out = rows.collect()
        dist, value = rows.policy(*out.rows(torch.arange(3)))
        torch.testing.assert_close(dist.log_prob(out.action), out.log_prob)
        torch.testing.assert_close(value, out.value)


def test_next_values_are_those_of_the_next_observations():
    rows = collector()
    out = rows.collect()
    policy, state = rows.policy, rows.policy.initial_state(3)
    acts = []
    for t in range(5):
        acts.append(policy.act({"obs": out.obs["obs"][:, t]}, state, out.start[:, t]))
        state = acts[-1].state
    # Inside an episode: the value of the next observation.
    torch.testing.assert_close(out.next_value[2, :4], out.value[2, 1:])
    # Truncated at step 2: the value of the final observation (episode 0, time 3), memory kept.
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
    # Returns 6 and 10.
    assert rows.episode_metrics() == {
        "episodes": 2.0,
        "episode_return": 8.0,
        "episode_length": 3.5,
    }
    rows.collect()
    # Row 0 ends twice more (steps 5 and 8), row 1 once; two of them began in the row before.
    assert rows.episode_metrics() == pytest.approx(
        {"episodes": 3.0, "episode_return": (6 + 6 + 10) / 3, "episode_length": (3 + 3 + 4) / 3}
    )


def test_rows_selects_observations_states_and_starts():
    rows = collector("lstm")
    rows.collect()
    out = rows.collect()
    obs, state, start = out.rows(torch.tensor([2, 0]))
    assert torch.equal(obs["obs"], out.obs["obs"][[2, 0]])
    assert torch.equal(start, out.start[[2, 0]])
    for some, every in zip(tree.leaves(state), tree.leaves(out.state), strict=True):
        assert torch.equal(some, every[[2, 0]])
