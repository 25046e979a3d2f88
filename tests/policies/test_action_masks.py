"""Masked distributions and policies: equal to those over legal actions alone, by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch import distributions as D

from rlmem.policies import ActorCritic, Policy, QPolicy, SoftPolicy, describe_inputs
from rlmem.policies.heads import (
    ILLEGAL,
    Categorical,
    LegalCombinations,
    MultiCategorical,
    make_leaf,
)
from rlmem.policies.multi_gamma import MultiGamma
from rlmem.spaces.action_mask import Legal

ROWS, N = 40, 6


def random_mask(rows: int, n: int) -> Tensor:
    """At least one legal action in each row; the first rows have exactly one."""
    mask = torch.rand(rows, n) < 0.5
    mask[:n] = False
    return mask | (torch.arange(n) == torch.arange(rows)[:, None] % n)


def alone(logits: Tensor, legal: Tensor) -> tuple[D.Categorical, list[int]]:
    """The distribution over the legal actions of one row alone, and their numbers."""
    chosen = legal.nonzero().squeeze(1)
    return D.Categorical(logits=logits[chosen]), chosen.tolist()


def test_log_probabilities_and_entropy_are_those_of_the_legal_actions_alone():
    logits = 5 * torch.randn(ROWS, N, dtype=torch.float64)
    legal = random_mask(ROWS, N)
    ours = Categorical(logits, legal)
    for row in range(ROWS):
        theirs, numbers = alone(logits[row], legal[row])
        every = torch.arange(len(numbers))
        torch.testing.assert_close(ours.log_p[row, numbers], theirs.log_prob(every))
        torch.testing.assert_close(ours.entropy()[row], theirs.entropy())
        assert ours.mode()[row] == numbers[int(theirs.logits.argmax())]
    assert (ours.log_p[~legal] <= ILLEGAL / 2).all()
    assert (ours.log_p[~legal].exp() == 0).all()


def test_samples_follow_the_probabilities_of_legal_actions():
    logits = torch.tensor([2.0, 0.5, 0.0, 9.0]).expand(40_000, 4)
    legal = torch.tensor([True, True, True, False]).expand(40_000, 4)
    frequency = Categorical(logits, legal).sample().bincount(minlength=4) / 40_000
    expected = torch.tensor([2.0, 0.5, 0.0, -math.inf]).softmax(0)
    assert frequency[3] == 0
    # Five standard deviations of a frequency in 40,000 draws.
    assert (frequency - expected).abs().max() < 5 * math.sqrt(0.25 / 40_000)


@pytest.mark.parametrize("value", [math.nan, -1e30, 1e30, -math.inf])
def test_no_logits_make_an_illegal_action(value: float):
    logits, legal = torch.full((ROWS, N), value), random_mask(ROWS, N)
    ours = Categorical(logits, legal)
    for action in (ours.mode(), *(ours.sample() for _ in range(20))):
        assert legal.gather(1, action[:, None]).all()


def test_gradients_of_illegal_logits_are_exactly_zero():
    logits = torch.randn(ROWS, N, dtype=torch.float64, requires_grad=True)
    legal = random_mask(ROWS, N)
    ours = Categorical(logits, legal)
    action = ours.sample()
    (ours.log_prob(action) + 0.3 * ours.entropy()).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[~legal] == 0).all()
    for row in range(ROWS):
        own = logits[row].detach().requires_grad_()
        theirs, numbers = alone(own, legal[row])
        at = torch.tensor(numbers.index(int(action[row])))
        (theirs.log_prob(at) + 0.3 * theirs.entropy()).backward()
        torch.testing.assert_close(logits.grad[row], own.grad)


def test_a_single_legal_action_is_certain():
    logits, legal = torch.randn(3, 4, requires_grad=True), torch.eye(4, dtype=torch.bool)[:3]
    ours = Categorical(logits, legal)
    assert ours.sample().tolist() == ours.mode().tolist() == [0, 1, 2]
    assert ours.log_prob(torch.arange(3)).tolist() == ours.entropy().tolist() == [0, 0, 0]
    (ours.log_prob(torch.arange(3)).sum() + ours.entropy().sum()).backward()
    assert (logits.grad == 0).all()


def test_each_entry_has_its_own_mask():
    logits = torch.randn(ROWS, 5, dtype=torch.float64)
    legal = torch.cat([random_mask(ROWS, 2), random_mask(ROWS, 3)], 1)
    ours = MultiCategorical(logits, [2, 3], legal)
    action = ours.sample()
    one, two = Categorical(logits[:, :2], legal[:, :2]), Categorical(logits[:, 2:], legal[:, 2:])
    expected = one.log_prob(action[:, 0]) + two.log_prob(action[:, 1])
    torch.testing.assert_close(ours.log_prob(action), expected)
    torch.testing.assert_close(ours.entropy(), one.entropy() + two.entropy())
    assert legal[:, :2].gather(1, action[:, :1]).all()
    assert legal[:, 2:].gather(1, action[:, 1:]).all()


def test_legal_combinations_are_the_product_given_that_it_is_legal():
    sizes = [2, 3, 2]
    logits = torch.randn(ROWS, 7, dtype=torch.float64)
    legal = random_mask(ROWS, 12)
    ours, free = LegalCombinations(logits, sizes, legal), MultiCategorical(logits, sizes)
    every = torch.tensor(list(itertools.product(range(2), range(3), range(2))))
    for row in range(ROWS):
        free_row = MultiCategorical(logits[row].expand(12, -1), sizes)
        p = free_row.log_prob(every).exp() * legal[row]
        p = p / p.sum()
        ours_row = LegalCombinations(logits[row].expand(12, -1), sizes, legal[row].expand(12, -1))
        torch.testing.assert_close(ours_row.log_prob(every).exp(), p)
        torch.testing.assert_close(ours.entropy()[row], D.Categorical(probs=p).entropy())
        assert torch.equal(ours.mode()[row], every[p.argmax()])
    for _ in range(10):
        a = ours.sample()
        assert legal.gather(1, (a[:, 0] * 6 + a[:, 1] * 2 + a[:, 2])[:, None]).all()
    # Without an illegal combination it is the product itself.
    everything = LegalCombinations(logits, sizes, torch.ones(ROWS, 12, dtype=torch.bool))
    action = free.sample()
    torch.testing.assert_close(everything.log_prob(action), free.log_prob(action))
    torch.testing.assert_close(everything.entropy(), free.entropy())
    assert torch.equal(everything.mode(), free.mode())


def test_masks_of_spaces_of_any_shape_and_first_value():
    leaf = make_leaf(spaces.MultiDiscrete([[2], [3]], start=[[5], [-1]]))
    legal = torch.tensor([[False, True, True, False, False]])
    dist = leaf(torch.zeros(1, 5), Legal(legal, False))  # type: ignore[call-arg]
    assert dist.sample().tolist() == [[[6], [-1]]]
    only = torch.zeros(1, 6, dtype=torch.bool)
    only[0, 4] = True  # the entries 1 and 1, counted from 0
    joint = leaf(torch.zeros(1, 5), Legal(only, True))  # type: ignore[call-arg]
    assert joint.mode().tolist() == [[[6], [0]]]
    assert joint.log_prob(joint.mode()).item() == 0


OBSERVATIONS = {
    "obs.observation": spaces.Box(-1, 1, (3,)),
    "obs.action_mask": spaces.Box(0, 1, (N,), np.int8),
}
ACTIONS = {"action": spaces.Discrete(N)}


def make(kind: type[Policy], **options: Any) -> Any:
    policy = kind(OBSERVATIONS, ACTIONS, core="gru", hidden_size=8, **options)
    for name, weight in policy.named_parameters():
        if "encoder" not in name and weight.dim() == 2:
            torch.nn.init.normal_(weight)
    return policy


def observe(*shape: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Observations, starts and legal actions, where action 5 is never legal."""
    legal = random_mask(math.prod(shape), N)
    legal[:, 5] = False
    legal[:, 0] |= ~legal.any(1)
    legal = legal.unflatten(0, shape)
    obs = {"obs.observation": torch.randn(*shape, 3), "obs.action_mask": legal.float()}
    return obs, torch.rand(shape) < 0.3, legal


KINDS = [ActorCritic, QPolicy, SoftPolicy, MultiGamma]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_no_input(kind: type[Policy]):
    policy = make(kind)
    assert list(policy.encoder.spaces) == ["obs.observation"]
    assert "obs.action_mask: mask of 6 values of action" in describe_inputs(policy)
    read = make(kind, action_mask=False)
    assert list(read.encoder.spaces) == list(OBSERVATIONS)
    assert read.mask is None
    assert "mask of" not in describe_inputs(read)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_actions_are_legal_in_every_step(kind: type[Policy], deterministic: bool):
    policy = make(kind)
    if hasattr(policy, "epsilon"):
        policy.epsilon = torch.rand(ROWS)
    obs, start, legal = observe(ROWS, 25)
    state = policy.initial_state(ROWS)
    with torch.no_grad():
        for t in range(25):
            now = {key: leaf[:, t] for key, leaf in obs.items()}
            act = policy.act(now, state, start[:, t], deterministic)
            assert legal[:, t].gather(1, act.action["action"][:, None]).all()
            state = act.state


@pytest.mark.parametrize("separate_critic", [False, True])
def test_step_and_scan_of_an_actor_critic_agree(separate_critic: bool):
    policy = make(ActorCritic, separate_critic=separate_critic)
    obs, start, legal = observe(5, 9)
    dist, value = policy(obs, policy.initial_state(5), start)
    state = policy.initial_state(5)
    for t in range(9):
        now = {key: leaf[:, t] for key, leaf in obs.items()}
        step = policy.act_with_value(now, state, start[:, t])
        action = torch.zeros(5, 9, dtype=torch.int64)
        action[:, t] = step.action["action"]
        torch.testing.assert_close(step.log_prob, dist.log_prob({"action": action})[:, t])
        torch.testing.assert_close(step.value, value[:, t])
        state = step.state
    assert (dist.parts["action"].log_p[~legal] <= ILLEGAL / 2).all()


@pytest.mark.parametrize("dueling", [False, True])
def test_values_of_illegal_actions_have_no_influence(dueling: bool):
    policy = make(QPolicy, dueling=dueling)
    obs, start, legal = observe(5, 9)
    q = policy(obs, policy.initial_state(5), start)
    assert (q[~legal] == -torch.inf).all()
    assert q[legal].isfinite().all()
    state = policy.initial_state(5)
    for t in range(9):
        now = {key: leaf[:, t] for key, leaf in obs.items()}, state, start[:, t]
        torch.testing.assert_close(policy.value(*now), q[:, t].amax(-1))
        act = policy.act(*now, deterministic=True)
        assert torch.equal(act.action["action"], q[:, t].argmax(-1))
        state = act.state
    torch.testing.assert_close(policy.mean_value(q), q[legal].mean())
    # Action 5 is never legal: its output is never trained.
    q[legal].square().sum().backward()
    last = policy.q.advantage[-1]
    assert (last.weight.grad[5] == 0).all()
    assert last.bias.grad[5] == 0
    assert (last.bias.grad[:5] != 0).all()


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_no_values_make_an_illegal_action(value: float):
    policy = make(QPolicy)
    torch.nn.init.constant_(policy.q.advantage[-1].bias, value)
    obs, start, legal = observe(ROWS)
    act = policy.act(obs, policy.initial_state(ROWS), start, deterministic=True)
    assert legal.gather(1, act.action["action"][:, None]).all()


def test_the_dueling_mean_is_over_legal_actions():
    head = make(QPolicy, dueling=True).q
    x, legal = torch.randn(ROWS, 8), random_mask(ROWS, N)
    q = torch.where(legal, head(x, legal), 0)
    torch.testing.assert_close(q.sum(1) / legal.sum(1), head.value(x).squeeze(-1))


def test_exploration_is_uniform_over_legal_actions():
    policy = make(QPolicy)
    rows = 12_000
    legal = torch.tensor([True, False, True, True, False, False]).expand(rows, N)
    obs = {"obs.observation": torch.zeros(rows, 3), "obs.action_mask": legal.float()}
    policy.epsilon = torch.tensor(0.6)
    now = obs, policy.initial_state(rows), torch.ones(rows, dtype=torch.bool)
    step = policy.act_with_value(*now)
    greedy = policy.act(*now, deterministic=True).action["action"]
    frequency = step.action["action"].bincount(minlength=N) / rows
    expected = torch.where(legal[0], 0.2, 0.0)
    expected[greedy[0]] += 0.4
    assert (frequency[~legal[0]] == 0).all()
    assert (frequency - expected).abs().max() < 5 * math.sqrt(0.25 / rows)
    torch.testing.assert_close(step.log_prob.exp(), expected[step.action["action"]])


def test_soft_values_sum_over_legal_actions():
    policy = make(SoftPolicy)
    obs, _, legal = observe(ROWS)
    features = torch.randn(ROWS, 8)
    output = policy.actor_output(features, policy.legal(obs))
    q = 100 * torch.randn(ROWS, N)
    for row in range(ROWS):
        theirs, numbers = alone(policy.actor.out(policy.actor.mlp(features))[row], legal[row])
        value = (theirs.probs * (q[row, numbers] - 0.5 * theirs.logits)).sum()
        got = output.value(q, torch.tensor([0.5, 0.5]))[row]
        torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-4)


def test_actions_of_several_leaves_are_numbered_with_their_masks():
    actions = {"action.0": spaces.Discrete(2), "action.1": spaces.MultiDiscrete([2, 3])}
    observations = {"obs.x": spaces.Discrete(3), "obs.action_mask.1": spaces.MultiBinary(6)}
    policy = QPolicy(observations, actions, core="gru", hidden_size=8)
    mask = torch.tensor([[1, 0, 0, 1, 1, 0]])  # of all combinations of action.1
    assert policy.mask is not None
    found = policy.discrete.legal(policy.mask({"obs.action_mask.1": mask}))
    assert found.tolist() == [[bool(n) for n in mask[0].tolist() * 2]]
    parts = {"obs.x": spaces.Discrete(3), "obs.action_mask": spaces.MultiBinary(7)}
    policy = QPolicy(parts, actions, core="gru", hidden_size=8)
    assert policy.mask is not None
    mask = torch.tensor([[1, 0, 0, 1, 1, 0, 1]])
    found = policy.discrete.legal(policy.mask({"obs.action_mask": mask}))
    legal = policy.discrete.action(found[0].nonzero().squeeze(1))
    assert legal["action.0"].tolist() == [0, 0]
    assert legal["action.1"].tolist() == [[1, 0], [1, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_step_can_be_exported(kind: type[Policy]):
    policy = make(kind).eval()

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, observation: Tensor, mask: Tensor, state: Tensor, start: Tensor) -> Any:
            obs = {"obs.observation": observation, "obs.action_mask": mask}
            act = self.policy.act(obs, state, start, deterministic=True)
            return act.action["action"], act.state

    obs, start, legal = observe(4)
    inputs = obs["obs.observation"], obs["obs.action_mask"], policy.initial_state(4), start
    program = torch.export.export(Step(), inputs).module()
    action, _ = program(*inputs)
    expected = policy.act(obs, inputs[2], start, deterministic=True)
    assert torch.equal(action, expected.action["action"])
    assert legal.gather(1, action[:, None]).all()
