"""Box actions with bounds of every kind: densities integrate to 1, and actions are in the space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies.action_space import Continuous
from rlmem.policies.continuous import BoxLeaf, MixedNormal, Normal, TanhNormal

INF = np.inf
LARGEST = float(np.finfo(np.float32).max)
# Bounds of one entry.
BOUNDS = {
    "both": (-2.0, 5.0),
    "none": (-INF, INF),
    "low": (1.5, INF),
    "high": (-INF, -30.0),
    "largest floats": (-LARGEST, LARGEST),
    "low, largest float": (0.0, LARGEST),
    "largest float, high": (-LARGEST, 4.0),
}


def leaf(low: list[float], high: list[float]) -> BoxLeaf:
    return BoxLeaf(spaces.Box(np.array(low, np.float32), np.array(high, np.float32)))


def distribution(
    low: list[float], high: list[float], mean: Tensor, log_std: Tensor
) -> Normal | TanhNormal | MixedNormal:
    """The leaf's distribution, with float64 bounds and parameters."""
    made = leaf(low, high).double()
    assert made.log_std is not None
    made.log_std.data = log_std.double()
    return made(mean.double())  # type: ignore[return-value]


def grid(low: float, high: float, mean: float, std: float) -> Tensor:
    """Actions that are dense where a density with these bounds is high."""
    n = 400_001
    if low > -1e30 and high < 1e30:
        return torch.linspace(low, high, n, dtype=torch.float64)[1:-1]
    reach = abs(mean) + 9 * std + 1
    if low > -1e30:
        # Dense near the bound.
        return low + torch.logspace(-9, math.log10(2 * reach), n, dtype=torch.float64)
    if high < 1e30:
        return high - torch.logspace(-9, math.log10(2 * reach), n, dtype=torch.float64).flip(0)
    return torch.linspace(mean - reach, mean + reach, n, dtype=torch.float64)


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.6), (1.3, 1.5), (-2.0, 0.3)])
def test_a_density_integrates_to_one(kind: str, mean: float, std: float):
    low, high = BOUNDS[kind]
    x = grid(low, high, mean, std)
    # With a second, constant entry the distribution is a `MixedNormal`.
    for extra in ([], [7.0]):
        dist = distribution(
            [low, *extra],
            [high, *extra],
            torch.tensor([[mean] + [3.0] * len(extra)]).expand(len(x), -1),
            torch.tensor([math.log(std)] * (1 + len(extra))),
        )
        action = torch.stack([x, *(torch.full_like(x, c) for c in extra)], -1)
        density = dist.log_prob(action).exp()
        total = torch.trapezoid(density, x)
        assert total.item() == pytest.approx(1, abs=2e-3)


def test_the_density_of_two_entries_of_different_kinds_integrates_to_one():
    n = 1201
    x, y = torch.linspace(-1, 1, n).double()[1:-1], torch.linspace(1e-6, 9, n).double()
    action = torch.cartesian_prod(x, y)
    dist = distribution(
        [-1, 0], [1, INF], torch.tensor([[0.3, 0.5]]).expand(len(action), -1), torch.zeros(2) - 0.5
    )
    density = dist.log_prob(action).exp().reshape(len(x), len(y))
    total = torch.trapezoid(torch.trapezoid(density, y), x)
    assert total.item() == pytest.approx(1, abs=2e-3)


LOW = [-2.0, -INF, 1.5, -INF, 3.0, -LARGEST]
HIGH = [5.0, INF, INF, -30.0, 3.0, LARGEST]


def mixed(n: int = 2000) -> tuple[MixedNormal, Tensor]:
    made = leaf(LOW, HIGH)
    mean = torch.randn(n, 6, requires_grad=True)
    dist = made(mean)
    assert isinstance(dist, MixedNormal)
    return dist, mean


def test_actions_are_in_the_space():
    space = spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))
    dist, _ = mixed()
    for action in (dist.sample(), dist.mode(), dist.draw()[0]):
        assert all(space.contains(row) for row in action.detach().numpy())
        assert (action[:, 4] == 3).all()
    # Also if the Gaussian is far from the bounds.
    made = leaf(LOW, HIGH)
    for mean in (-1e4, -40.0, 40.0, 1e4):
        action = made(torch.full((1, 6), mean)).mode()
        assert space.contains(action.detach().numpy()[0]), mean
        assert made(torch.zeros(1, 6)).log_prob(action).isfinite().all()


def test_the_mode_increases_with_the_mean():
    made = leaf(LOW, HIGH)
    modes = made(torch.linspace(-3, 3, 50)[:, None].expand(-1, 6)).mode()
    steps = modes[1:] - modes[:-1]
    assert (steps[:, [0, 1, 2, 3, 5]] > 0).all()
    assert (steps[:, 4] == 0).all()


def test_a_transform_by_hand():
    dist = distribution([0.0, -INF], [INF, 1.0], torch.zeros(1, 2), torch.zeros(2))
    softplus = math.log(2)
    torch.testing.assert_close(
        dist.mode(), torch.tensor([[softplus, 1 - softplus]], dtype=torch.float64)
    )
    # The slope of both transforms at 0 is 1/2: the density is twice that of the Gaussian.
    by_hand = 2 * (-0.5 * math.log(2 * math.pi) + math.log(2))
    assert dist.log_prob(dist.mode()).item() == pytest.approx(by_hand)


def test_draw_returns_the_log_probability_of_its_sample_and_gradients():
    dist, mean = mixed()
    action, log_prob = dist.draw()
    torch.testing.assert_close(log_prob, dist.log_prob(action), atol=5e-2, rtol=1e-3)
    (log_prob.sum() + action.sum()).backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    assert (mean.grad[:, 4] == 0).all()
    assert mean.grad[:, [0, 1, 2, 3, 5]].any(0).all()


def test_gradients_are_finite_at_and_beyond_the_bounds():
    made = leaf(LOW, HIGH)
    for action in (LOW, HIGH):
        finite = torch.tensor(action).clamp(-1e4, 1e4)
        for mean in (-1e4, 0.0, 1e4):
            x = torch.full((1, 6), mean, requires_grad=True)
            made(x).log_prob(finite[None]).sum().backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()


def test_draw_is_exact_for_a_tiny_standard_deviation():
    made = BoxLeaf(
        spaces.Box(np.array([0, -1], np.float32), np.array([INF, 1], np.float32)), state_std=True
    )
    x = torch.tensor([[3.0, 0.0, -20.0, -20.0]]).expand(5, -1)
    _, log_prob = made(x).draw()
    # The samples are at most four standard deviations from the mean.
    slope = math.log(1 / (1 + math.exp(-3)))
    assert ((log_prob - 40 + math.log(2 * math.pi) + slope).abs() < 16).all()


def test_the_entropy_is_the_mean_of_minus_log_prob():
    n = 100_000
    dist = leaf(LOW, HIGH)(torch.zeros(n, 6))
    torch.testing.assert_close(
        dist.entropy().mean(), -dist.log_prob(dist.sample()).mean(), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_constant_action_has_probability_one(shape: tuple[int, ...]):
    made = BoxLeaf(spaces.Box(2.5, 2.5, shape))
    dist = made(torch.randn(7, max(1, math.prod(shape))))
    for action in (dist.sample(), dist.mode(), dist.draw()[0]):
        assert action.shape == (7, *shape)
        assert (action == 2.5).all()
    assert (dist.log_prob(dist.sample()) == 0).all()
    assert (dist.entropy() == 0).all()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_actions_have_the_shape_of_the_space(shape: tuple[int, ...]):
    size = math.prod(shape)
    vector = BoxLeaf(spaces.Box(-1, 3, (size,)))
    shaped = BoxLeaf(spaces.Box(-1, 3, shape))
    x = torch.randn(4, 5, size)
    torch.manual_seed(1)
    action = shaped(x).sample()
    torch.manual_seed(1)
    flat = vector(x).sample()
    assert action.shape == (4, 5, *shape)
    assert torch.equal(action.reshape(4, 5, size), flat)
    torch.testing.assert_close(shaped(x).log_prob(action), vector(x).log_prob(flat))


def test_bounded_and_unbounded_boxes_keep_their_distributions():
    assert type(leaf([-1, 0], [1, 4])(torch.zeros(1, 2))) is TanhNormal
    assert type(leaf([-INF], [INF])(torch.zeros(1, 1))) is Normal
    assert type(leaf([-LARGEST], [LARGEST])(torch.zeros(1, 1))) is Normal


def test_the_vector_of_actions_is_scaled_by_two_bounds_only():
    low, high = np.array(LOW, np.float32), np.array(HIGH, np.float32)
    continuous = Continuous({"a": spaces.Box(low, high), "b": spaces.Box(0, 10, ())})
    assert (continuous.size, continuous.free) == (7, 6)
    action = {
        "a": torch.tensor([[5.0, 7.0, 4.5, -31.0, 3.0, 2.0]]),
        "b": torch.tensor([2.5]),
    }
    # From [-2, 5] and [0, 10] to [-1, 1]; from the only bound; a constant is 0.
    assert continuous(action).tolist() == [[1.0, 7.0, 3.0, -1.0, 0.0, 2.0, -0.5]]
    assert continuous.log_unit_volume == pytest.approx(math.log(3.5) + math.log(5))


def test_integers_are_refused():
    with pytest.raises(UsageError, match="must have a float dtype"):
        BoxLeaf(spaces.Box(0, 9, (2,), np.int64))
