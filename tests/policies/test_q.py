"""The agent of Q-learning: what it plays, what it says of it, and how its values are made."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies import QPolicy

SEEN = {"obs": spaces.Discrete(7)}
ACTIONS = {"action.0": spaces.Discrete(2), "action.1": spaces.MultiDiscrete([3, 2])}


def agent(**options: object) -> QPolicy:
    policy = QPolicy(SEEN, ACTIONS, core="gru", hidden_size=8, **options)  # type: ignore[arg-type]
    for name, weight in policy.q.named_parameters():
        if name.endswith("weight") and weight.dim() == 2:
            torch.nn.init.normal_(weight)
    return policy


def look(*shape: int) -> tuple[dict[str, Tensor], Tensor]:
    return {"obs": torch.randint(7, shape)}, torch.rand(shape) < 0.3


@pytest.mark.parametrize("dueling", [False, True])
def test_greedy_play_is_the_argmax_of_the_row(dueling: bool):
    policy = agent(dueling=dueling)
    obs, start = look(4, 9)
    values = policy(obs, policy.initial_state(4), start)
    assert values.shape == (4, 9, 12)
    state = policy.initial_state(4)
    for t in range(9):
        now = {"obs": obs["obs"][:, t]}, state, start[:, t]
        torch.testing.assert_close(policy.value(*now), values[:, t].amax(-1))
        torch.testing.assert_close(policy.decide(*now).value, values[:, t].amax(-1))
        act = policy.act(*now, deterministic=True)
        assert torch.equal(policy.choices.index(act.action), values[:, t].argmax(-1))
        state = act.state


def test_epsilon_is_the_share_of_random_actions_and_may_differ_by_environment():
    policy = agent()
    num = 4000
    policy.epsilon = torch.tensor([0.0, 0.4, 1.0]).repeat(num)
    obs = {"obs": torch.zeros(3 * num, dtype=torch.int64)}
    begin = policy.initial_state(3 * num), torch.ones(3 * num, dtype=torch.bool)
    said = policy.decide(obs, *begin)
    greedy = policy.choices.index(policy.act(obs, *begin, deterministic=True).action)
    choice = policy.choices.index(said.action)
    agreed = (choice == greedy).view(num, 3)
    # Of the random ones, one in twelve is greedy by chance.
    shares = torch.tensor([1.0, 0.6 + 0.4 / 12, 1 / 12])
    torch.testing.assert_close(agreed.float().mean(0), shares, atol=0.025, rtol=0)
    assert set(choice.view(num, 3)[:, 2].tolist()) == set(range(12))
    other = ~agreed[:, 1]
    torch.testing.assert_close(
        said.log_prob.view(num, 3)[:, 1].exp(), torch.where(other, 0.4 / 12, 0.6 + 0.4 / 12)
    )
    assert said.log_prob.view(num, 3)[:, 0].eq(0).all()


def test_epsilon_is_no_weight():
    policy = agent()
    policy.epsilon = torch.tensor(0.5)
    assert "epsilon" not in policy.state_dict()
    assert policy.to("meta").epsilon.device.type == "meta"


def test_dueling_streams_by_hand():
    head = agent(dueling=True).q
    x = torch.randn(5, 8)
    a, v = head.advantage(x), head.value(x)
    # Equation 9 of Wang et al.: what the advantages have in common belongs to the state.
    torch.testing.assert_close(head(x).mean(-1), v.squeeze(-1))
    torch.testing.assert_close(head(x)[:, 3] - head(x)[:, 7], a[:, 3] - a[:, 7])
    assert agent(dueling=False).q.value is None


def test_the_first_values_say_next_to_nothing():
    policy = QPolicy(SEEN, ACTIONS, hidden_size=32)
    obs, start = look(20, 10)
    assert policy(obs, policy.initial_state(20), start).abs().max() < 0.1


def test_actions_that_cannot_be_counted_are_refused():
    with pytest.raises(UsageError, match="no list of actions"):
        QPolicy(SEEN, {"action": spaces.Box(-1, 1, (2,))})
