"""Other losses, retentions and windows: each rule's chunks against the definition, and the
definition against the papers' equations."""

from __future__ import annotations

import pytest
import torch

from rlmem.kernels import titans
from rlmem.kernels.titans import Rates, Rule, ops, recall, retain, titans_reference
from rlmem.kernels.titans.reference import surprise
from rlmem.kernels.titans.rule import orthogonal
from tests.kernels.test_titans import Given, floats, results

RULES = {
    "lp": Rule(limit=2.0, bias="lp", power=3.0),
    "huber": Rule(bias="huber"),
    "lq": Rule(limit=2.0, retention="lq"),
    "kl": Rule(limit=2.0, retention="kl"),
    "moneta": Rule(limit=2.0, bias="lp", power=1.5, retention="lq", norm=3.0),
    "omega": Rule(limit=2.0, window=4),
    "muon": Rule(limit=2.0, orthogonal=5),
    "all": Rule(2, 2.0, "lp", 3.0, "kl", 4.0, 3, 2),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def given_for(rule: Rule, time: int, **options) -> Given:
    """Arguments; if the rule has a window, with as many tokens before the row as it can have."""
    given = Given(time, **options)
    if rule.window > 1:
        rows, _, heads, size = given.k.shape
        shape = rows, rule.window - 1, heads, size + given.v.shape[-1] + 2
        recent = torch.rand(shape, dtype=given.k.dtype) + 0.1
        ago = torch.arange(rule.window - 1, 0, -1)
        known = ago <= given.state.age[:, None]
        given.state = given.state._replace(recent=recent * known[..., None, None])
    return given


@pytest.mark.by_day(3)
@every_rule
@pytest.mark.parametrize(
    ("time", "sizes", "chunk"),
    [(1, (3, 5, 4), 3), (19, (4, 3), 1), (19, (3, 5, 4), 4), (23, (4, 3), 8), (7, (3, 5, 4), 50)],
)
def test_chunks_equal_the_definition(rule, time, sizes, chunk):
    rule = rule._replace(chunk=chunk)
    given = given_for(rule, time, sizes=sizes)
    got, want = (results(form, given, rule) for form in (titans, titans_reference))
    # Newton-Schulz amplifies small numbers by hundreds, and rounding errors with them.
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("bias", ["l2", "lp", "huber"])
def test_the_surprise_is_the_gradient_of_the_loss(bias, sizes):
    given, rule = Given(1, sizes=sizes), Rule(bias=bias)
    key, value, weight = given.k[:, 0], given.v[:, 0], given.state.weight
    error = recall(weight, key) - value
    delta = error.detach().norm(dim=-1) * torch.tensor([0.5, 1.5])
    length = error.norm(dim=-1)
    loss = {
        "l2": length.square(),
        "lp": error.abs().pow(rule.power).sum(-1),
        "huber": torch.where(length <= delta, length**2, delta * (2 * length - delta)),
    }[bias].sum()
    factors = surprise(rule, weight, key, value, delta)
    for w, read, wrong in zip(weight, factors[::2], factors[1::2], strict=True):
        (want,) = torch.autograd.grad(loss, w, retain_graph=True)
        torch.testing.assert_close(
            read[..., :, None] * wrong[..., None, :], want, rtol=0, atol=1e-4
        )


def test_weights_follow_from_accumulated_updates():
    kept = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert retain(Rule(), kept) is kept
    lengths = kept.abs().pow(4).sum((-2, -1), keepdim=True).pow(0.25)
    torch.testing.assert_close(retain(Rule(retention="lq"), kept), kept / lengths**2)
    torch.testing.assert_close(retain(Rule(retention="lq", norm=2.0), kept), kept)
    shares = retain(Rule(retention="kl"), kept)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(-2), torch.full((2, 3, 5), 2.0, dtype=torch.float64))


def test_memora_is_the_softmax_of_its_last_weights_and_the_gradient():
    given, rule = Given(3, rows=1, heads=1, sizes=(3, 4)), Rule(retention="kl")
    theta, eta, alpha = given.rates[:3]
    given.rates = Rates(theta, 0 * eta, alpha)
    given.start[:] = False
    _, state = titans(*given, rule)
    weight = retain(rule, given.state.weight[0]) / 3**0.5
    for t in range(3):
        k, v = given.k[:, t], given.v[:, t]
        used = 3**0.5 * weight
        gradient = k[..., None] * 2 * (recall((used,), k) - v)[..., None, :]
        rates = theta[:, t, :, None, None], alpha[:, t, :, None, None]
        weight = ((1 - rates[1]) * weight.log() - rates[0] * gradient).softmax(-2)
    torch.testing.assert_close(retain(rule, state.weight[0]), 3**0.5 * weight)


def test_a_window_learns_its_tokens_at_the_same_weights():
    given, rule = Given(5, rows=1, sizes=(3, 4)), Rule(window=3)
    given.start[:] = False
    given.start[:, 1] = True
    tokens = torch.zeros(1, 2, 2, 3 + 4 + 2, dtype=torch.float64)
    given.state = given.state._replace(recent=tokens, age=torch.tensor([0]))
    rates = given.rates = Rates(*(each.detach() for each in given.rates))
    _, state = titans(*given, rule)
    weight, momentum = given.first[0][None], torch.zeros_like(given.state.momentum[0])
    for t in range(1, 5):
        loss = sum(
            rates.gamma[:, j] * (recall((weight,), given.k[:, j]) - given.v[:, j]).square().sum(-1)
            for j in range(max(1, t - 2), t + 1)
        )
        (gradient,) = torch.autograd.grad(loss.sum(), weight)
        theta, eta, alpha = (rate[:, t, :, None, None] for rate in rates[:3])
        momentum = eta * momentum - theta * gradient
        weight = ((1 - alpha) * weight + momentum).detach().requires_grad_()
    torch.testing.assert_close(state.weight[0], weight)
    torch.testing.assert_close(state.momentum[0], momentum)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)], ids=str)
def test_newton_schulz_brings_singular_values_near_one(shape):
    matrix = torch.randn(3, *shape, dtype=torch.float64)
    got = orthogonal(matrix, 8)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ got @ vh.mT
    assert (turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-6
    values = turned.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.by_day(3)
@every_rule
def test_long_rows_stay_finite_within_a_limit(rule):
    rule = rule._replace(chunk=32, limit=1.0)
    given = given_for(rule, 10_000, rows=1, dtype=torch.float32)
    with torch.no_grad():
        y, state = titans(*given, rule)
    assert all(each.isfinite().all() for each in floats(y, state))


def test_opcheck():
    rule = Rule(4, window=3, retention="lq")
    given = given_for(rule, 9)
    leaves = [*given.leaves(), given.state.recent.requires_grad_()]
    torch.library.opcheck(ops.learn_row, (leaves, given.state.age, given.start, *rule))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(bias="l1"), "bias must be of .* not 'l1'"),
        (Rule(retention="l1"), "retention of .* and 'l1'"),
        (Rule(window=0), "window or orthogonal is too small"),
        (Rule(window=2), r"recent must be \[3, 1, 2, 10\]"),
    ],
)
def test_bad_rules_raise_an_error(rule, message):
    with pytest.raises(ValueError, match=message):
        titans(*Given(4), rule)
