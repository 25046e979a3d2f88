"""The policy of Q-learning: its actions, log-probabilities and values."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies import QPolicy
from rlmem.policies.action_space import JointDiscrete

OBSERVATIONS = {"obs": spaces.Discrete(7)}
ACTIONS = {"action.0": spaces.Discrete(2), "action.1": spaces.MultiDiscrete([3, 2])}


def agent(**options: object) -> QPolicy:
    policy = QPolicy(OBSERVATIONS, ACTIONS, core="gru", hidden_size=8, **options)  # type: ignore[arg-type]
    for name, weight in policy.q.named_parameters():
        if name.endswith("weight") and weight.dim() == 2:
            torch.nn.init.normal_(weight)
    return policy


def observe(*shape: int) -> tuple[dict[str, Tensor], Tensor]:
    return {"obs": torch.randint(7, shape)}, torch.rand(shape) < 0.3


@pytest.mark.parametrize("dueling", [False, True])
def test_greedy_actions_are_the_argmax_of_the_scan(dueling: bool):
    policy = agent(dueling=dueling)
    obs, start = observe(4, 9)
    values = policy(obs, policy.initial_state(4), start)
    assert values.shape == (4, 9, 12)
    state = policy.initial_state(4)
    for t in range(9):
        now = {"obs": obs["obs"][:, t]}, state, start[:, t]
        torch.testing.assert_close(policy.value(*now), values[:, t].amax(-1))
        torch.testing.assert_close(policy.act_with_value(*now).value, values[:, t].amax(-1))
        act = policy.act(*now, deterministic=True)
        assert torch.equal(policy.discrete.index(act.action), values[:, t].argmax(-1))
        state = act.state


def test_epsilon_is_the_fraction_of_random_actions_per_environment():
    policy = agent()
    num = 4000
    policy.epsilon = torch.tensor([0.0, 0.4, 1.0]).repeat(num)
    obs = {"obs": torch.zeros(3 * num, dtype=torch.int64)}
    begin = policy.initial_state(3 * num), torch.ones(3 * num, dtype=torch.bool)
    step = policy.act_with_value(obs, *begin)
    greedy = policy.discrete.index(policy.act(obs, *begin, deterministic=True).action)
    index = policy.discrete.index(step.action)
    agreed = (index == greedy).view(num, 3)
    # One in twelve random actions is the greedy one by chance.
    expected = torch.tensor([1.0, 0.6 + 0.4 / 12, 1 / 12])
    torch.testing.assert_close(agreed.float().mean(0), expected, atol=0.025, rtol=0)
    assert set(index.view(num, 3)[:, 2].tolist()) == set(range(12))
    other = ~agreed[:, 1]
    torch.testing.assert_close(
        step.log_prob.view(num, 3)[:, 1].exp(), torch.where(other, 0.4 / 12, 0.6 + 0.4 / 12)
    )
    assert step.log_prob.view(num, 3)[:, 0].eq(0).all()


def test_epsilon_is_not_saved():
    policy = agent()
    policy.epsilon = torch.tensor(0.5)
    assert "epsilon" not in policy.state_dict()
    assert policy.to("meta").epsilon.device.type == "meta"


def test_dueling_streams_by_hand():
    head = agent(dueling=True).q
    x = torch.randn(5, 8)
    a, v = head.advantage(x), head.value(x)
    # Equation 9 of Wang et al.: the mean over actions is the value of the state.
    torch.testing.assert_close(head(x).mean(-1), v.squeeze(-1))
    torch.testing.assert_close(head(x)[:, 3] - head(x)[:, 7], a[:, 3] - a[:, 7])
    assert agent(dueling=False).q.value is None


def test_initial_values_are_near_zero():
    policy = QPolicy(OBSERVATIONS, ACTIONS, hidden_size=32)
    obs, start = observe(20, 10)
    assert policy(obs, policy.initial_state(20), start).abs().max() < 0.1


def test_continuous_actions_are_refused():
    with pytest.raises(UsageError, match="only discrete spaces with at most 4096 joint actions"):
        QPolicy(OBSERVATIONS, {"action": spaces.Box(-1, 1, (2,))})


def test_joint_actions_of_any_shape_and_first_value_by_hand():
    joint = JointDiscrete(
        {
            "a": spaces.Discrete(3, start=-1),
            "b": spaces.MultiDiscrete([[2, 2]], start=[[5, 0]]),
            "c": spaces.MultiBinary((1, 1)),
        }
    )
    assert joint.n == 3 * 4 * 2
    action = {
        "a": torch.tensor([-1, 1]),
        "b": torch.tensor([[[5, 1]], [[6, 0]]]),
        "c": torch.tensor([[[0]], [[1]]]),
    }
    # ((0 * 2 + 0) * 2 + 1) * 2 + 0 and ((2 * 2 + 1) * 2 + 0) * 2 + 1
    assert joint.index(action).tolist() == [2, 21]
    back = joint.action(torch.tensor([2, 21]))
    assert all(torch.equal(back[key], action[key]) for key in action)
    every = torch.arange(joint.n)
    assert torch.equal(joint.index(joint.action(every)), every)
