"""Sequence policies: steps against scans, their inputs, and the target return."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.policies.sequence import NUMBER, ReturnPolicy, SequencePolicy

ACTIONS = {
    "action.move": spaces.Discrete(3),
    "action.force": spaces.Box(-2, 2, (2,), np.float32),
}
OBSERVATIONS = {
    "obs": spaces.Discrete(4),
    **{f"previous_{key}": space for key, space in ACTIONS.items()},
    "start": spaces.Discrete(2),
    "previous_reward": NUMBER,
    "previous_done": spaces.Discrete(2),
    "episode": NUMBER,
}


def observe(*shape: int) -> dict[str, Tensor]:
    return {
        "obs": torch.randint(4, shape),
        "previous_action.move": torch.randint(3, shape),
        "previous_action.force": torch.randn(*shape, 2),
        "start": torch.randint(2, shape),
        "previous_reward": torch.randn(shape),
        "previous_done": torch.randint(2, shape),
        "episode": torch.rand(shape),
    }


def make(kind: type[SequencePolicy], core: str = "gru") -> SequencePolicy:
    policy = kind(OBSERVATIONS, ACTIONS, core=core, hidden_size=8)
    torch.nn.init.normal_(policy.actor.out.weight)
    return policy


@pytest.mark.parametrize("core", ["gru", "transformer_xl"])
@pytest.mark.parametrize("kind", [SequencePolicy, ReturnPolicy])
def test_actions_are_those_of_the_scan(kind: type[SequencePolicy], core: str):
    policy = make(kind, core)
    row, start = observe(3, 7), torch.rand(3, 7) < 0.3
    start[:, 0] = True
    if isinstance(policy, ReturnPolicy):
        policy.target_return.fill_(5.0)
        policy.return_scale.fill_(2.0)
        # 5 minus the rewards so far; the reward of step t is in the observation at t + 1.
        remaining = torch.zeros(3, 7)
        for t in range(7):
            remaining[:, t] = torch.where(
                start[:, t], 5.0, remaining[:, t - 1] - row["previous_reward"][:, t]
            )
        row["return_to_go"] = remaining
    dist = policy(row, policy.core.initial_state(3), start)
    state = policy.initial_state(3)
    for t in range(7):
        now = {key: leaf[:, t] for key, leaf in row.items() if key != "return_to_go"}
        act = policy.act(now, state, start[:, t], deterministic=True)
        assert torch.equal(act.action["action.move"], dist.mode()["action.move"][:, t])
        torch.testing.assert_close(
            act.action["action.force"], dist.mode()["action.force"][:, t], atol=1e-4, rtol=1e-4
        )
        state = act.state


def test_previous_steps_are_not_read_at_a_start():
    policy = make(SequencePolicy)
    one, other = observe(4), observe(4)
    other["obs"] = one["obs"]
    begin = torch.tensor([True, True, False, False])
    forces = [
        policy.act(obs, policy.initial_state(4), begin, True).action["action.force"]
        for obs in (one, other)
    ]
    assert torch.equal(forces[0][:2], forces[1][:2])
    assert not torch.isclose(forces[0][2:], forces[1][2:]).all(-1).any()


@pytest.mark.parametrize("leaf", ["previous_reward", "previous_done", "previous_action.move"])
def test_previous_steps_are_read(leaf: str):
    policy = make(SequencePolicy)
    one = observe(1) | {leaf: torch.zeros(1) if leaf == "previous_reward" else torch.tensor([0])}
    other = one | {leaf: one[leaf] + 1}
    never = torch.tensor([False])
    forces = [
        policy.act(obs, policy.initial_state(1), never, True).action["action.force"]
        for obs in (one, other)
    ]
    assert not torch.equal(*forces)


def test_the_target_return_is_scaled_and_saved():
    policy = make(ReturnPolicy)
    assert isinstance(policy, ReturnPolicy)
    obs, begin = observe(1), torch.tensor([True])

    def force(target: float, scale: float) -> Tensor:
        policy.target_return.fill_(target)
        policy.return_scale.fill_(scale)
        return policy.act(obs, policy.initial_state(1), begin, True).action["action.force"]

    assert not torch.equal(force(1.0, 1.0), force(2.0, 1.0))
    assert torch.equal(force(1.0, 1.0), force(2.0, 2.0))
    assert policy.state_dict()["target_return"] == 2
