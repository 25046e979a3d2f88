"""Action distributions: equal to `torch.distributions`, closed forms and sample frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as D

from rlmem.policies.continuous import Normal, TanhNormal
from rlmem.policies.heads import Categorical, Joint, MultiCategorical


def test_categorical_matches_torch():
    logits = torch.randn(5, 7, 4, dtype=torch.float64)
    ours, theirs = Categorical(logits), D.Categorical(logits=logits)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))


def test_categorical_samples_follow_the_probabilities():
    p = torch.tensor([0.5, 0.3, 0.2])
    draws = Categorical(p.log().expand(40_000, 3)).sample()
    frequency = draws.bincount(minlength=3) / len(draws)
    # Five standard deviations of a frequency in 40,000 draws.
    assert (frequency - p).abs().max() < 5 * math.sqrt(0.25 / 40_000)


def test_categorical_never_samples_probability_zero():
    logits = torch.tensor([0.0, -torch.inf]).expand(1000, 2)
    assert (Categorical(logits).sample() == 0).all()


def test_multi_categorical_is_a_product_of_categoricals():
    logits = torch.randn(6, 5, dtype=torch.float64)
    parts = [D.Categorical(logits=logits[:, :2]), D.Categorical(logits=logits[:, 2:])]
    ours = MultiCategorical(logits, [2, 3])
    action = ours.sample()
    expected = sum(part.log_prob(action[:, i]) for i, part in enumerate(parts))
    torch.testing.assert_close(ours.log_prob(action), expected)
    torch.testing.assert_close(ours.entropy(), parts[0].entropy() + parts[1].entropy())
    assert torch.equal(ours.mode()[:, 1], logits[:, 2:].argmax(-1))


def test_normal_matches_torch():
    mean, log_std = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    theirs = D.Independent(D.Normal(mean, log_std.exp()), 1)
    ours = Normal(mean, log_std)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())


def squashed(low: float, high: float) -> tuple[TanhNormal, D.Distribution]:
    mean, log_std = torch.randn(2, 5, 2, dtype=torch.float64)
    edge = torch.ones(2, dtype=torch.float64)
    ours = TanhNormal(mean, log_std, low * edge, high * edge)
    half = (high - low) / 2
    theirs = D.TransformedDistribution(
        D.Independent(D.Normal(mean, log_std.exp()), 1),
        [D.TanhTransform(cache_size=1), D.AffineTransform(low + half, half, event_dim=1)],
    )
    return ours, theirs


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (0.0, 1.0), (-3.0, 7.0)])
def test_tanh_normal_matches_torch_and_respects_bounds(low: float, high: float):
    ours, theirs = squashed(low, high)
    action = ours.sample()
    assert (action > low).all()
    assert (action < high).all()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))


def test_draw_returns_the_log_probability_of_its_sample():
    ours, theirs = squashed(-3.0, 7.0)
    for one, other in ((ours, theirs), (ours.normal, theirs.base_dist)):
        action, log_prob = one.draw()
        torch.testing.assert_close(log_prob, other.log_prob(action))


def test_gradients_of_draw_by_hand():
    mean = torch.tensor([0.3], requires_grad=True)
    log_std = torch.tensor([-1.0], requires_grad=True)
    action, log_prob = TanhNormal(mean, log_std, torch.tensor([-2.0]), torch.tensor([4.0])).draw()
    unit = (action - 1).item() / 3
    noise = (math.atanh(unit) - 0.3) / math.exp(-1)
    found = torch.autograd.grad(action, (mean, log_std), retain_graph=True)
    # a = 1 + 3 tanh(x), x = mean + exp(log_std) noise
    slope = 3 * (1 - unit**2)
    assert found[0].item() == pytest.approx(slope, rel=1e-4)
    assert found[1].item() == pytest.approx(slope * math.exp(-1) * noise, rel=1e-4)
    # log pi = log N(noise) - log_std - log 3 - log(1 - tanh(x)^2), whose slope in x is 2 tanh(x)
    found = torch.autograd.grad(log_prob, (mean, log_std))
    assert found[0].item() == pytest.approx(2 * unit, rel=1e-4)
    assert found[1].item() == pytest.approx(2 * unit * math.exp(-1) * noise - 1, rel=1e-4)


def test_draw_is_exact_for_a_tiny_standard_deviation():
    normal = Normal(torch.full((5, 1), 3.0), torch.full((5, 1), -20.0))
    _, log_prob = normal.draw()
    # The sample is at most four standard deviations from the mean.
    assert ((log_prob - 20 + 0.5 * math.log(2 * math.pi)).abs() < 8).all()


def test_tanh_normal_entropy_is_the_mean_of_minus_log_prob():
    n = 200_000
    one = torch.ones(1)
    wide = TanhNormal(torch.full((n, 1), 0.3), torch.full((n, 1), -0.2), -2 * one, 2 * one)
    by_sampling = -wide.log_prob(wide.sample()).mean()
    torch.testing.assert_close(wide.entropy().mean(), by_sampling, atol=0.02, rtol=0)


def test_tanh_normal_is_finite_when_tanh_saturates():
    mean = torch.tensor([[30.0], [-30.0]], requires_grad=True)
    one = torch.ones(1)
    dist = TanhNormal(mean, torch.zeros(2, 1), -one, one)
    action = dist.sample()
    assert (action.abs() < 1).all()
    (dist.log_prob(action) + dist.entropy()).sum().backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


def test_joint_sums_log_probabilities_and_entropies():
    a, b = Categorical(torch.randn(4, 3)), Normal(torch.randn(4, 2), torch.zeros(4, 2))
    joint = Joint({"a": a, "b": b})
    action = joint.sample()
    expected = a.log_prob(action["a"]) + b.log_prob(action["b"])
    torch.testing.assert_close(joint.log_prob(action), expected)
    torch.testing.assert_close(joint.entropy(), a.entropy() + b.entropy())
    assert torch.equal(joint.mode()["b"], b.mean)
