"""The agent of soft actor-critic: what it plays, what it plans, and what its critics say of it."""

from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies import SoftPolicy
from rlmem.policies.soft import Plan

SEEN = {"obs": spaces.Discrete(7)}
MOVE = {"action.move": spaces.Discrete(3)}
PUSH = {"action.push": spaces.Box(-2, 6, (2,))}
MIXED = {
    "action.keys": spaces.MultiDiscrete([2, 3]),
    "action.push": spaces.Box(-2, 6, (2,)),
    "action.free": spaces.Box(-torch.inf, torch.inf, (1,)),
}


def agent(actions: dict[str, spaces.Space], **options: object) -> SoftPolicy:
    """One whose heads say more than at first."""
    policy = SoftPolicy(SEEN, actions, core="gru", hidden_size=8, **options)  # type: ignore[arg-type]
    for head in (policy.actor, policy.critics):
        for weight in head.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return policy


def look(*shape: int) -> tuple[dict[str, Tensor], Tensor]:
    return {"obs": torch.randint(7, shape)}, torch.rand(shape) < 0.3


@pytest.mark.parametrize("actions", [MOVE, PUSH, MIXED])
def test_play_is_the_actor_of_the_row(actions: dict[str, spaces.Space]):
    policy = agent(actions)
    obs, start = look(4, 6)
    features, _ = policy.scan_features(obs, policy.initial_state(4), start)
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
        if policy.choices:
            assert torch.equal(policy.choices.index(greedy.action), best["choice"][:, t])
        state = greedy.state


def test_value_of_a_plan_by_hand():
    p = torch.tensor([0.5, 0.25, 0.25])
    plan = Plan(p.log(), torch.zeros(1), torch.tensor(0.3))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    torch.testing.assert_close(plan.entropy(), torch.tensor([entropy, -0.3]))
    value = plan.value(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([0.1, 2.0]))
    # 0.5 * 1 + 0.25 * 2 - 0.25 * 4 = 0
    assert value.item() == pytest.approx(0 + 0.1 * entropy - 2.0 * 0.3)


def test_a_plan_is_what_the_actor_says():
    policy = agent(MIXED)
    features = torch.randn(5, 3, 8)
    actor = policy.actor(features)
    plan = policy.plan(features)
    torch.testing.assert_close(plan.log_p, actor.parts["choice"].log_p)  # type: ignore[attr-defined]
    # Back from units of half the range, where the density is half the range times as high.
    push, free = plan.numbers[..., :2] * 4 + 2, plan.numbers[..., 2:]
    density = actor.parts["action.push"].log_prob(push) + actor.parts["action.free"].log_prob(free)
    torch.testing.assert_close(plan.log_density, density + 2 * math.log(4), rtol=1e-3, atol=1e-3)


def test_units_of_numbers_do_not_matter():
    narrow, wide = ({"action.a": spaces.Box(low, high, (2,))} for low, high in ((-1, 1), (0, 600)))
    ours, theirs = agent(narrow), agent(wide)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(6, 8)
    plans = []
    for policy in (ours, theirs):
        torch.manual_seed(0)
        plans.append(policy.plan(features))
    for one, other in zip(*plans, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    unit = torch.rand(6, 2) * 2 - 1
    torch.testing.assert_close(
        ours.values(features, {"action.a": unit}),
        theirs.values(features, {"action.a": (unit + 1) * 300}),
    )


def test_without_a_part_there_is_one_choice_or_no_number():
    features = torch.randn(4, 8)
    counted, pushed = agent(MOVE).plan(features), agent(PUSH).plan(features)
    assert counted.numbers.shape == (4, 0)
    assert counted.entropy()[:, 1].eq(0).all()
    assert pushed.log_p.shape == (4, 1)
    assert pushed.entropy()[:, 0].eq(0).all()


def test_plans_leave_the_memory_alone():
    features = torch.randn(4, 8, requires_grad=True)
    policy = agent(MIXED)
    plan = policy.plan(features)
    (plan.entropy().sum() + plan.numbers.sum()).backward()
    assert features.grad is None
    assert all(p.grad is not None and p.grad.any() for p in policy.actor.parameters())


def test_chosen_is_the_value_of_the_choice_and_the_numbers():
    policy = agent(MIXED)
    features = torch.randn(5, 4, 8)
    index = torch.randint(6, (5, 4))
    assert policy.choices
    action = {
        **policy.choices.action(index),
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


def test_values_bend_with_the_numbers_even_without_hidden_layers():
    policy = agent(PUSH, head_layers=0)
    features = torch.randn(20, 8)
    low, middle, high = (
        policy.values(features, {"action.push": torch.full((20, 2), x)}) for x in (-2.0, 2.0, 6.0)
    )
    assert not torch.allclose((low + high) / 2, middle, atol=1e-3)


def test_critics_differ_and_say_next_to_nothing_at_first():
    policy = SoftPolicy(SEEN, MOVE, hidden_size=32, num_critics=3)
    values = policy.values(torch.randn(50, 32), {})
    assert values.shape == (3, 50, 3)
    assert values.abs().max() < 0.2
    assert not torch.isclose(values[0], values[1]).any(1).all()


def test_too_many_choices_are_refused():
    with pytest.raises(UsageError, match="at most 4096 joint actions"):
        SoftPolicy(SEEN, {"action": spaces.MultiBinary(13)})
    with pytest.raises(UsageError, match="num_critics must be an integer of at least 1"):
        SoftPolicy(SEEN, MOVE, num_critics=0)
