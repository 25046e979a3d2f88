"""Actor and critics for many discounts: by hand, in every kind of action space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem.errors import UsageError
from rlmem.policies.action_space import DISCRETE
from rlmem.policies.multi_gamma import MultiGamma

OBSERVATION = {"obs": spaces.Box(0, 1, (3,))}
FORCE = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32))
ACTIONS = {
    "discrete": {"move": spaces.Discrete(3)},
    "joint": {"cell": spaces.MultiDiscrete([2, 3]), "keys": spaces.MultiBinary(2)},
    "continuous": {"force": FORCE, "free": spaces.Box(-np.inf, np.inf, (1,))},
    "hybrid": {"force": FORCE, "move": spaces.Discrete(3)},
}
GAMMAS = (0.5, 0.99, 0.9)


def make(kind: str, **options: object) -> MultiGamma:
    options = {"gammas": GAMMAS, "num_critics": 4, "hidden_size": 8, **options}
    policy = MultiGamma(OBSERVATION, ACTIONS[kind], **options)  # type: ignore[arg-type]
    with torch.no_grad():
        # The initial weights of the last layers are small; larger ones make errors visible.
        policy.heads.critics.out.linear.weight.normal_()
        policy.heads.actor.out.weight.normal_()
    return policy


def act(policy: MultiGamma, n: int, deterministic: bool = False) -> dict[str, torch.Tensor]:
    obs, start = {"obs": torch.rand(n, 3)}, torch.ones(n, dtype=torch.bool)
    return policy.act(obs, policy.initial_state(n), start, deterministic).action


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_actions_are_in_the_space(kind: str, epsilon: float):
    policy = make(kind)
    policy.epsilon = torch.full((50,), epsilon)
    with torch.no_grad():
        action = act(policy, 50)
    assert list(action) == list(ACTIONS[kind])
    for key, space in ACTIONS[kind].items():
        for sample in action[key].numpy():
            assert space.contains(sample.astype(space.dtype)), key


@pytest.mark.parametrize("kind", ACTIONS)
def test_values_by_hand(kind: str):
    policy = make(kind)
    heads, critics = policy.heads, policy.heads.critics
    h, action = torch.randn(4, 6, 8), act(policy, 24)
    action = {k: v.detach().unflatten(0, (4, 6)) for k, v in action.items()}
    actor = heads.actor(h)
    torch.manual_seed(1)
    q, expected = heads.judge(h, actor, action)
    assert q.shape == expected.shape == (4, 4, 6, 3)
    continuous = None if heads.continuous is None else heads.continuous(action)
    values = critics(h, continuous)
    index = torch.zeros(4, 6, dtype=torch.long)
    if heads.discrete:
        index = heads.discrete.index(action)
    for row, t in [(0, 0), (2, 5), (3, 1)]:
        torch.testing.assert_close(q[:, row, t], values[:, row, t, :, index[row, t]])
    # The same continuous sample again, and the expectation over discrete actions as a sum.
    torch.manual_seed(1)
    sample = heads._sample(actor)
    probability = torch.ones(4, 6, 3, 1)
    if heads.discrete:
        probability = actor.parts[DISCRETE].log_p.exp()  # type: ignore[attr-defined]
    by_hand = (probability * critics(h, sample)).sum(-1)
    torch.testing.assert_close(expected, by_hand)
    torch.manual_seed(1)
    members = torch.tensor([2, 0])
    torch.testing.assert_close(heads.value(h, actor, members), by_hand[members])


def test_every_discount_reads_its_own_continuous_action():
    critics = make("continuous").heads.critics
    h, continuous = torch.randn(5, 8), torch.randn(5, 3, 3)
    together = critics(h, continuous)
    for g in range(3):
        alone = critics(h, continuous[:, g])
        torch.testing.assert_close(together[:, :, g], alone[:, :, g], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["discrete", "hybrid"])
def test_gradients_of_the_two_values(kind: str):
    heads = make(kind).heads
    action = {k: v.detach() for k, v in act(make(kind), 5).items()}
    h, actor_h = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    q, expected = heads.judge(h, heads.actor(actor_h), action)
    expected.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in heads.critics.parameters())
    assert h.grad is None
    assert actor_h.grad is not None
    assert any(p.grad is not None for p in heads.actor.parameters())
    heads.zero_grad(set_to_none=True)
    actor_h.grad = None
    q.sum().backward()
    assert h.grad is not None
    assert actor_h.grad is None
    assert heads.critics.out.linear.weight.grad is not None
    assert all(p.grad is None for p in heads.actor.parameters())


def test_log_prob_is_that_of_the_action_under_each_discount():
    policy = make("hybrid")
    h, action = torch.randn(5, 8), {k: v.detach() for k, v in act(policy, 5).items()}
    actor = policy.heads.actor(h)
    log_prob = policy.heads.log_prob(actor, action)
    for g in range(3):
        log_p = actor.parts[DISCRETE].log_p[:, g]  # type: ignore[attr-defined]
        force = actor.parts["force"]
        alone = type(force)(
            force.normal.mean[:, g],  # type: ignore[attr-defined]
            force.normal.log_std[:, g],  # type: ignore[attr-defined]
            torch.as_tensor(FORCE.low),
            torch.as_tensor(FORCE.high),
        )
        by_hand = log_p[torch.arange(5), action["move"]] + alone.log_prob(action["force"])
        torch.testing.assert_close(log_prob[:, g], by_hand)


def test_actions_are_those_of_the_largest_discount():
    policy = make("discrete")
    assert policy.main == 1
    with torch.no_grad():
        policy.heads.actor.out.weight.zero_()
        # Logits [G, n]: the first discount prefers 0, the second 2, the third 1.
        policy.heads.actor.out.bias.copy_(100 * torch.eye(3)[[0, 2, 1]].flatten())
    assert act(policy, 6, deterministic=True)["move"].tolist() == [2] * 6
    assert act(policy, 6)["move"].tolist() == [2] * 6


def test_epsilon_may_differ_by_environment():
    policy = make("hybrid")
    n = 3000
    action = {"force": torch.zeros(n, 2) + 0.5, "move": torch.zeros(n, dtype=torch.long)}
    epsilon = torch.zeros(n)
    epsilon[1000:] = 0.3
    with torch.no_grad():
        explored = policy.heads.perturb(action, epsilon)
    assert torch.equal(explored["move"][:1000], action["move"][:1000])
    assert torch.equal(explored["force"][:1000], action["force"][:1000])
    # Two of three random actions differ from the given one.
    changed = (explored["move"][1000:] != 0).float().mean().item()
    assert changed == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 2000))
    # Half the range of the first entry is 2; 0.5 is 2.5 standard deviations from the bound.
    assert explored["force"][1000:, 0].std().item() == pytest.approx(0.6, rel=0.06)
    assert explored["force"][1000:, 1].amin() == 0


@pytest.mark.parametrize("kind", ["discrete", "hybrid"])
def test_rescaling_is_separate_for_each_discount(kind: str):
    heads = make(kind).heads
    h = torch.randn(5, 8)
    continuous = None if heads.continuous is None else torch.randn(5, 3, 2)
    before = heads.critics(h, continuous)
    scale, shift = torch.tensor([2.0, 1.0, 0.1]), torch.tensor([0.0, 5.0, -1.0])
    heads.critics.out.rescale(scale, shift)
    after = heads.critics(h, continuous)
    by_hand = before * scale[:, None] + shift[:, None]
    torch.testing.assert_close(after, by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gammas": ()}, "gammas must be numbers between 0 and 1, at least one"),
        ({"gammas": (0.9, 1.1)}, "gammas must be numbers between 0 and 1"),
        ({"num_critics": 0}, "num_critics must be an integer of at least 1"),
    ],
)
def test_bad_options_get_a_clear_message(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        make("discrete", **options)
