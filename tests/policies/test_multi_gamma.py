"""Policies and values for many discounts: by hand, in every kind of action space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem.errors import UsageError
from rlmem.policies.multi_gamma import MultiGamma

OBSERVATION = {"obs": spaces.Box(0, 1, (3,))}
FORCE = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32))
ACTIONS = {
    "one": {"move": spaces.Discrete(3)},
    "many": {"cell": spaces.MultiDiscrete([2, 3]), "keys": spaces.MultiBinary(2)},
    "numbers": {"force": FORCE, "free": spaces.Box(-np.inf, np.inf, (1,))},
    "both": {"force": FORCE, "move": spaces.Discrete(3)},
}
GAMMAS = (0.5, 0.99, 0.9)


def make(kind: str, **options: object) -> MultiGamma:
    options = {"gammas": GAMMAS, "num_critics": 4, "hidden_size": 8, **options}
    policy = MultiGamma(OBSERVATION, ACTIONS[kind], **options)  # type: ignore[arg-type]
    with torch.no_grad():
        # The last layers' first weights are small; larger ones tell more.
        policy.heads.critics.out.linear.weight.normal_()
        policy.heads.actor.out.weight.normal_()
    return policy


def play(policy: MultiGamma, n: int, deterministic: bool = False) -> dict[str, torch.Tensor]:
    obs, start = {"obs": torch.rand(n, 3)}, torch.ones(n, dtype=torch.bool)
    return policy.act(obs, policy.initial_state(n), start, deterministic).action


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_actions_are_in_the_space(kind: str, epsilon: float):
    policy = make(kind)
    policy.epsilon = torch.full((50,), epsilon)
    with torch.no_grad():
        action = play(policy, 50)
    assert list(action) == list(ACTIONS[kind])
    for key, space in ACTIONS[kind].items():
        for sample in action[key].numpy():
            assert space.contains(sample.astype(space.dtype)), key


@pytest.mark.parametrize("kind", ACTIONS)
def test_values_by_the_parts_of_an_action(kind: str):
    policy = make(kind)
    heads, critics = policy.heads, policy.heads.critics
    h, action = torch.randn(4, 6, 8), play(policy, 24)
    action = {k: v.detach().unflatten(0, (4, 6)) for k, v in action.items()}
    actor = heads.actor(h)
    torch.manual_seed(1)
    q, expected = heads.judge(h, actor, action)
    assert q.shape == expected.shape == (4, 4, 6, 3)
    numbers = None if heads.numbers is None else heads.numbers(action)
    every = critics(h, numbers)
    chosen = torch.zeros(4, 6, dtype=torch.long)
    if heads.choices:
        chosen = heads.choices.index(action)
    for row, t in [(0, 0), (2, 5), (3, 1)]:
        torch.testing.assert_close(q[:, row, t], every[:, row, t, :, chosen[row, t]])
    # The same draw of numbers again, and the expectation over choices written out.
    torch.manual_seed(1)
    drawn = heads._draw(actor)
    probability = torch.ones(4, 6, 3, 1)
    if heads.choices:
        probability = actor.parts["choice"].log_p.exp()  # type: ignore[attr-defined]
    by_hand = (probability * critics(h, drawn)).sum(-1)
    torch.testing.assert_close(expected, by_hand)
    torch.manual_seed(1)
    members = torch.tensor([2, 0])
    torch.testing.assert_close(heads.value(h, actor, members), by_hand[members])


def test_every_discount_reads_the_numbers_that_are_its_own():
    critics = make("numbers").heads.critics
    h, numbers = torch.randn(5, 8), torch.randn(5, 3, 3)
    together = critics(h, numbers)
    for g in range(3):
        alone = critics(h, numbers[:, g])
        torch.testing.assert_close(together[:, :, g], alone[:, :, g], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["one", "both"])
def test_what_the_two_values_teach(kind: str):
    heads = make(kind).heads
    action = {k: v.detach() for k, v in play(make(kind), 5).items()}
    h, seen = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    q, expected = heads.judge(h, heads.actor(seen), action)
    expected.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in heads.critics.parameters())
    assert h.grad is None
    assert seen.grad is not None
    assert any(p.grad is not None for p in heads.actor.parameters())
    heads.zero_grad(set_to_none=True)
    seen.grad = None
    q.sum().backward()
    assert h.grad is not None
    assert seen.grad is None
    assert heads.critics.out.linear.weight.grad is not None
    assert all(p.grad is None for p in heads.actor.parameters())


def test_log_prob_is_that_of_one_action_under_each_policy():
    policy = make("both")
    h, action = torch.randn(5, 8), {k: v.detach() for k, v in play(policy, 5).items()}
    actor = policy.heads.actor(h)
    log_prob = policy.heads.log_prob(actor, action)
    for g in range(3):
        choice = actor.parts["choice"].log_p[:, g]  # type: ignore[attr-defined]
        numbers = actor.parts["force"]
        alone = type(numbers)(
            numbers.normal.mean[:, g],  # type: ignore[attr-defined]
            numbers.normal.log_std[:, g],  # type: ignore[attr-defined]
            torch.as_tensor(FORCE.low),
            torch.as_tensor(FORCE.high),
        )
        by_hand = choice[torch.arange(5), action["move"]] + alone.log_prob(action["force"])
        torch.testing.assert_close(log_prob[:, g], by_hand)


def test_it_plays_for_the_largest_discount():
    policy = make("one")
    assert policy.main == 1
    with torch.no_grad():
        policy.heads.actor.out.weight.zero_()
        # Logits [G, n]: the first policy wants 0, the second 2, the third 1.
        policy.heads.actor.out.bias.copy_(100 * torch.eye(3)[[0, 2, 1]].flatten())
    assert play(policy, 6, deterministic=True)["move"].tolist() == [2] * 6
    assert play(policy, 6)["move"].tolist() == [2] * 6


def test_epsilon_is_of_each_environment_alone():
    policy = make("both")
    n = 3000
    action = {"force": torch.zeros(n, 2) + 0.5, "move": torch.zeros(n, dtype=torch.long)}
    epsilon = torch.zeros(n)
    epsilon[1000:] = 0.3
    with torch.no_grad():
        strayed = policy.heads.perturb(action, epsilon)
    assert torch.equal(strayed["move"][:1000], action["move"][:1000])
    assert torch.equal(strayed["force"][:1000], action["force"][:1000])
    # Two of three random choices are others.
    others = (strayed["move"][1000:] != 0).float().mean().item()
    assert others == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 2000))
    # Half the range of the first number is 2, and 0.5 is two and a half deviations from its bound.
    assert strayed["force"][1000:, 0].std().item() == pytest.approx(0.6, rel=0.06)
    assert strayed["force"][1000:, 1].amin() == 0


@pytest.mark.parametrize("kind", ["one", "both"])
def test_rescaling_is_of_each_discount_alone(kind: str):
    heads = make(kind).heads
    h = torch.randn(5, 8)
    numbers = None if heads.numbers is None else torch.randn(5, 3, 2)
    before = heads.critics(h, numbers)
    scale, shift = torch.tensor([2.0, 1.0, 0.1]), torch.tensor([0.0, 5.0, -1.0])
    heads.critics.out.rescale(scale, shift)
    after = heads.critics(h, numbers)
    by_hand = before * scale[:, None] + shift[:, None]
    torch.testing.assert_close(after, by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gammas": ()}, "gammas must be some numbers between 0 and 1"),
        ({"gammas": (0.9, 1.1)}, "gammas must be some numbers between 0 and 1"),
        ({"num_critics": 0}, "num_critics must be an integer of at least 1"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        make("one", **options)
