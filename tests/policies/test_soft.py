"""The policy of soft actor-critic: actions, actor output, and the critics' values."""

from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies import SoftPolicy
from rlmem.policies.action_space import DISCRETE
from rlmem.policies.soft import ActorOutput

OBSERVATIONS = {"obs": spaces.Discrete(7)}
MOVE = {"action.move": spaces.Discrete(3)}
PUSH = {"action.push": spaces.Box(-2, 6, (2,))}
HYBRID = {
    "action.keys": spaces.MultiDiscrete([2, 3]),
    "action.push": spaces.Box(-2, 6, (2,)),
    "action.free": spaces.Box(-torch.inf, torch.inf, (1,)),
}


def agent(actions: dict[str, spaces.Space], **options: object) -> SoftPolicy:
    """A policy whose heads have larger weights than the initial ones."""
    policy = SoftPolicy(OBSERVATIONS, actions, core="gru", hidden_size=8, **options)  # type: ignore[arg-type]
    for head in (policy.actor, policy.critics):
        for weight in head.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return policy


def observe(*shape: int) -> tuple[dict[str, Tensor], Tensor]:
    return {"obs": torch.randint(7, shape)}, torch.rand(shape) < 0.3


@pytest.mark.parametrize("actions", [MOVE, PUSH, HYBRID])
def test_actions_are_those_of_the_scan(actions: dict[str, spaces.Space]):
    policy = agent(actions)
    obs, start = observe(4, 6)
    features, _ = policy.core.scan(policy.encoder(obs), policy.initial_state(4), start)
    best = policy.actor(features).mode()
    state = policy.initial_state(4)
    for t in range(6):
        now = {"obs": obs["obs"][:, t]}, state, start[:, t]
        greedy, sampled = policy.act(*now, deterministic=True), policy.act(*now)
        assert list(greedy.action) == list(actions)
        for key, space in actions.items():
            for action in sampled.action[key].detach().numpy():
                assert space.contains(action.astype(space.dtype)), key
        for key in best.keys() & actions.keys():
            torch.testing.assert_close(greedy.action[key], best[key][:, t])
        if policy.discrete:
            assert torch.equal(policy.discrete.index(greedy.action), best[DISCRETE][:, t])
        state = greedy.state


def test_value_of_an_actor_output_by_hand():
    p = torch.tensor([0.5, 0.25, 0.25])
    output = ActorOutput(p.log(), torch.zeros(1), torch.tensor(0.3))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    torch.testing.assert_close(output.entropy(), torch.tensor([entropy, -0.3]))
    value = output.value(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([0.1, 2.0]))
    # 0.5 * 1 + 0.25 * 2 - 0.25 * 4 = 0
    assert value.item() == pytest.approx(0 + 0.1 * entropy - 2.0 * 0.3)


def test_actor_output_matches_the_actor():
    policy = agent(HYBRID)
    features = torch.randn(5, 3, 8)
    actor = policy.actor(features)
    output = policy.actor_output(features)
    torch.testing.assert_close(output.log_p, actor.parts[DISCRETE].log_p)  # type: ignore[attr-defined]
    # In units of half the range (4) the density is 4 times as high per entry.
    push, free = output.continuous[..., :2] * 4 + 2, output.continuous[..., 2:]
    density = actor.parts["action.push"].log_prob(push) + actor.parts["action.free"].log_prob(free)
    torch.testing.assert_close(output.log_density, density + 2 * math.log(4), rtol=1e-3, atol=1e-3)


def test_bounds_of_continuous_actions_do_not_matter():
    narrow, wide = ({"action.a": spaces.Box(low, high, (2,))} for low, high in ((-1, 1), (0, 600)))
    ours, theirs = agent(narrow), agent(wide)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(6, 8)
    outputs = []
    for policy in (ours, theirs):
        torch.manual_seed(0)
        outputs.append(policy.actor_output(features))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    unit = torch.rand(6, 2) * 2 - 1
    torch.testing.assert_close(
        ours.values(features, {"action.a": unit}),
        theirs.values(features, {"action.a": (unit + 1) * 300}),
    )


def test_a_missing_part_has_size_zero_or_a_single_action():
    features = torch.randn(4, 8)
    move, push = agent(MOVE).actor_output(features), agent(PUSH).actor_output(features)
    assert move.continuous.shape == (4, 0)
    assert move.entropy()[:, 1].eq(0).all()
    assert push.log_p.shape == (4, 1)
    assert push.entropy()[:, 0].eq(0).all()


def test_actor_output_has_no_gradient_for_the_memory():
    features = torch.randn(4, 8, requires_grad=True)
    policy = agent(HYBRID)
    output = policy.actor_output(features)
    (output.entropy().sum() + output.continuous.sum()).backward()
    assert features.grad is None
    assert all(p.grad is not None and p.grad.any() for p in policy.actor.parameters())


def test_chosen_is_the_value_of_both_parts_of_the_action():
    policy = agent(HYBRID)
    features = torch.randn(5, 4, 8)
    index = torch.randint(6, (5, 4))
    assert policy.discrete
    action = {
        **policy.discrete.action(index),
        "action.push": torch.rand(5, 4, 2),
        "action.free": torch.randn(5, 4, 1),
    }
    values = policy.values(features, action)
    assert values.shape == (2, 5, 4, 6)
    chosen = policy.chosen(values, action)
    for row, time in ((0, 0), (3, 2)):
        torch.testing.assert_close(chosen[:, row, time], values[:, row, time, index[row, time]])
    for key in ("action.push", "action.free"):
        other = {**action, key: action[key] + 0.5}
        assert not torch.isclose(policy.values(features, other), values).all(0).any()


def test_values_are_nonlinear_in_continuous_actions_without_hidden_layers():
    policy = agent(PUSH, head_layers=0)
    features = torch.randn(20, 8)
    low, middle, high = (
        policy.values(features, {"action.push": torch.full((20, 2), x)}) for x in (-2.0, 2.0, 6.0)
    )
    assert not torch.allclose((low + high) / 2, middle, atol=1e-3)


def test_initial_values_differ_between_critics_and_are_near_zero():
    policy = SoftPolicy(OBSERVATIONS, MOVE, hidden_size=32, num_critics=3)
    values = policy.values(torch.randn(50, 32), {})
    assert values.shape == (3, 50, 3)
    assert values.abs().max() < 0.2
    assert not torch.isclose(values[0], values[1]).any(1).all()


def test_bad_options_are_refused():
    with pytest.raises(UsageError, match="at most 4096 joint actions"):
        SoftPolicy(OBSERVATIONS, {"action": spaces.MultiBinary(13)})
    with pytest.raises(UsageError, match="num_critics must be an integer of at least 1"):
        SoftPolicy(OBSERVATIONS, MOVE, num_critics=0)
