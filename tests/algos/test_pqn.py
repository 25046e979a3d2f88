"""PQN's targets and loss against numbers worked out by hand, and that it learns to remember."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from rlmem import algos
from rlmem.algos.pqn import PQN
from rlmem.data.rollout import Rollout
from rlmem.errors import UsageError
from rlmem.policies import QPolicy
from tests.algos.echo import Echo
from tests.data.counting import Counting


def make(core: str = "gru", **options: object) -> PQN:
    # Row 0 is cut off after 3 steps, row 1 terminates after 4, row 2 never ends.
    env = Counting([3, 4, 10**6, 7], [True, False, False, True])
    policy = QPolicy(env.observation_space, env.action_space, core=core, hidden_size=8)
    options = {"num_steps": 5, "num_minibatches": 2, **options}
    return algos.make("pqn", env=env, policy=policy, seed=[0, 2, 4, 6], **options)  # type: ignore[return-value]


def flags(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows).bool()


def test_targets_by_hand():
    pqn = make(gamma=0.5, q_lambda=0.5)
    nothing = torch.zeros(2, 4)
    rollout = Rollout(
        obs={},
        action={},
        log_prob=nothing,
        value=nothing,
        # max_a Q of what followed each step.
        next_value=torch.tensor([[4.0, 8.0, 2.0, 6.0], [4.0, 8.0, 2.0, 100.0]]),
        reward=torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]),
        start=flags([1, 0, 1, 0], [1, 0, 0, 0]),
        terminated=flags([0, 0, 0, 0], [0, 0, 0, 1]),
        truncated=flags([0, 1, 0, 0], [0, 0, 0, 0]),
        state=torch.zeros(2, 0),
    )
    # Row 0: the end of the row and the truncation bootstrap, 4 + 6/2 = 7 and 2 + 8/2 = 6; before
    # them half of Q and half of the return: 3 + (2/2 + 7/2)/2 = 5.25 and 1 + (4/2 + 6/2)/2 = 3.5.
    # Row 1: the terminated step is its reward alone, whatever the 100 says; then
    # 3 + (2/2 + 4/2)/2 = 4.5, 2 + (8/2 + 4.5/2)/2 = 5.125, 1 + (4/2 + 5.125/2)/2 = 3.28125.
    expected = torch.tensor([[3.5, 6.0, 5.25, 7.0], [3.28125, 5.125, 4.5, 4.0]])
    torch.testing.assert_close(pqn.target(rollout), expected)


def test_what_was_cut_off_bootstraps_from_the_best_action_in_its_final_observation():
    pqn = make(q_lambda=0.0, gamma=0.9)
    torch.nn.init.normal_(pqn.policy.q.advantage[-1].weight)
    out = pqn.collector.collect()
    target = pqn.target(out)
    # Row 0 as it was played, and then its final observation: episode 0, time 3.
    played = {"obs": torch.tensor([[[0.0, t] for t in range(4)]])}
    alone = pqn.policy(played, pqn.policy.initial_state(1), flags([1, 0, 0, 0]))[0]
    torch.testing.assert_close(target[0, 2], 3 + 0.9 * alone[3].max())
    torch.testing.assert_close(target[0, 1], 2 + 0.9 * alone[2].max())
    # Row 1 terminates with its fourth step, whose reward is 4.
    assert target[1, 3].item() == 4


def test_loss_by_hand():
    pqn = make()
    rollout = pqn.collector.collect()
    rows = torch.tensor([2, 0])
    values = pqn.policy(*rollout.rows(rows))
    played = rollout.action["action"][rows]
    target = torch.randn(2, 5)
    total = sum(
        (values[i, t, played[i, t]] - target[i, t]) ** 2 for i in range(2) for t in range(5)
    )
    loss, metrics = pqn.loss(rollout, rows, target)
    torch.testing.assert_close(loss, total / 20)
    assert metrics["q_loss"] == loss


def test_epsilon_falls_to_its_end_and_is_what_is_played():
    pqn = make(start_e=0.8, end_e=0.2, exploration_fraction=0.5)
    assert [pqn.exploration.epsilon(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.8, 0.5, 0.2, 0.2]
    )
    assert pqn.iterate(0.25)["epsilon"] == pytest.approx(0.5)
    assert pqn.policy.epsilon.item() == pytest.approx(0.5)
    assert make(exploration_fraction=0.0, end_e=0.1).exploration.epsilon(0.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_minibatches": 3}, "must divide num_envs"),
        ({"q_lambda": 1.5}, "q_lambda must be between 0 and 1, not 1.5"),
        ({"end_e": -0.1}, "end_e must be between 0 and 1"),
        ({"gae_lambda": 0.9}, "did you mean q_lambda"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.learning
@pytest.mark.parametrize("core", ["gru", "none"])
def test_learns_to_remember_a_bit(core: str, monkeypatch: pytest.MonkeyPatch):
    # Shapes are checked everywhere else; here that would take nine tenths of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    env = Echo(32, length=4)
    policy = QPolicy(env.observation_space, env.action_space, core=core, hidden_size=32)
    pqn = PQN(env, policy, seed=[0] * 32, num_steps=16, num_minibatches=8, learning_rate=3e-3)
    returns = torch.tensor([pqn.iterate(i / 30)["episode_return"] for i in range(30)])
    last = returns[-10:].median()
    assert abs(last) < 0.3 if core == "none" else last > 0.9, returns
