"""Returns and advantages: values by hand, plain loops, and undefined values never read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlmem.data.returns import (
    discounted_sum,
    gae,
    lambda_returns,
    n_step_returns,
    rescale,
    unrescale,
)

NAN = float("nan")

# One row, gamma = gae_lambda = 1/2. Step 1 terminates, step 2 is a complete truncated episode, and
# the row ends inside a third one.
#   delta[3] = 4 + 1/2 * 4 - 2 = 4      advantage[3] = 4
#   delta[2] = 3 + 1/2 * 9 - 2 = 5.5    advantage[2] = 5.5
#   delta[1] = 2 - 1           = 1      advantage[1] = 1
#   delta[0] = 1 + 1/2 * 1 - 1 = 0.5    advantage[0] = 0.5 + 1/4 * 1 = 0.75
REWARD = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
VALUE = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
NEXT_VALUE = torch.tensor([[1.0, NAN, 9.0, 4.0]])
TERMINATED = torch.tensor([[False, True, False, False]])
TRUNCATED = torch.tensor([[False, False, True, False]])
ADVANTAGE = torch.tensor([[0.75, 1.0, 5.5, 4.0]])


def rollout(batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(
        3, batch, steps, generator=generator, dtype=torch.float64
    )
    terminated, truncated = torch.rand(2, batch, steps, generator=generator) < 0.2
    return reward, value, next_value, terminated, truncated


def test_gae_by_hand() -> None:
    advantage, target = gae(REWARD, VALUE, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.5)
    torch.testing.assert_close(advantage, ADVANTAGE)
    torch.testing.assert_close(target, ADVANTAGE + VALUE)


def test_lambda_returns_by_hand() -> None:
    # G[3] = 4 + 1/2 * 4, G[2] = 3 + 1/2 * 9, G[1] = 2, G[0] = 1 + 1/2 * (1/2 * 1 + 1/2 * 2)
    got = lambda_returns(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.5)
    torch.testing.assert_close(got, torch.tensor([[1.75, 2.0, 7.5, 6.0]]))


def test_discounted_sum_by_hand() -> None:
    # G[3] = 4 + 1/2 * 8, G[2] = 3 + 1/2 * 8, G[1] = 2, G[0] = 1 + 1/2 * 2
    got = discounted_sum(REWARD, TERMINATED, 0.5, torch.tensor([8.0]))
    torch.testing.assert_close(got, torch.tensor([[2.0, 2.0, 7.0, 8.0]]))
    # Without a bootstrap: G[3] = 4, G[2] = 3 + 1/2 * 4
    got = discounted_sum(REWARD, TERMINATED, 0.5)
    torch.testing.assert_close(got, torch.tensor([[2.0, 2.0, 5.0, 4.0]]))


@pytest.mark.parametrize("steps", [1, 2, 37])
def test_gae_equals_the_naive_loop(steps: int) -> None:
    reward, value, next_value, terminated, truncated = rollout(5, steps)
    want = torch.zeros_like(reward)
    for b in range(reward.shape[0]):
        following = 0.0
        for t in reversed(range(steps)):
            target = reward[b, t].item()
            if not terminated[b, t]:
                target += 0.9 * next_value[b, t].item()
            if terminated[b, t] or truncated[b, t]:
                following = 0.0
            following = target - value[b, t].item() + 0.9 * 0.8 * following
            want[b, t] = following
    advantage, target = gae(reward, value, next_value, terminated, truncated, 0.9, 0.8)
    torch.testing.assert_close(advantage, want)
    torch.testing.assert_close(target, want + value)


def test_lambda_returns_are_the_targets_of_gae() -> None:
    reward, value, next_value, terminated, truncated = rollout(5, 37)
    alive = ~(terminated | truncated)[:, :-1]
    next_value[:, :-1] = torch.where(alive, value[:, 1:], next_value[:, :-1])
    got = lambda_returns(reward, next_value, terminated, truncated, 0.9, 0.8)
    _, target = gae(reward, value, next_value, terminated, truncated, 0.9, 0.8)
    torch.testing.assert_close(got, target)


@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_lambda_zero_and_one(gae_lambda: float) -> None:
    """lambda = 0 is the one-step target, lambda = 1 the discounted sum of rewards."""
    reward, _, next_value, terminated, _ = rollout(5, 37)
    never = torch.zeros_like(terminated)
    got = lambda_returns(reward, next_value, terminated, never, 0.9, gae_lambda)
    if gae_lambda == 0.0:
        want = reward + 0.9 * next_value * ~terminated
    else:
        want = discounted_sum(reward, terminated, 0.9, next_value[:, -1])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("poison", [NAN, float("inf")])
def test_an_episode_does_not_read_the_next_one(poison: float) -> None:
    """Values after an episode's end have no effect before it, not even a NaN."""
    rows = [x.clone() for x in rollout(2, 9)]
    reward, value, next_value, terminated, truncated = rows
    terminated[0, 4], truncated[1, 4] = True, True
    want, _ = gae(*rows, 0.9, 0.8)
    reward[:, 5:] = value[:, 5:] = next_value[:, 5:] = poison
    next_value[terminated] = poison
    got, _ = gae(*rows, 0.9, 0.8)
    torch.testing.assert_close(got[:, :5], want[:, :5], rtol=0, atol=0)


def test_gradients_reach_the_values() -> None:
    """gae is a pure function: d advantage[0] / d value is -1 and gamma (1 - lambda) at the next."""
    reward, _, _, terminated, _ = rollout(1, 3)
    never = torch.zeros_like(terminated)
    value = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    advantage, _ = gae(reward, value[:, :-1], value[:, 1:], never, never, 0.5, 0.5)
    advantage[0, 0].backward()
    # A[0] = d0 + 1/4 d1 + 1/16 d2, d[t] = r[t] + 1/2 v[t+1] - v[t]
    want = torch.tensor([[-1.0, 0.25, 0.0625, 0.03125]], dtype=torch.float64)
    torch.testing.assert_close(value.grad, want)


def test_n_step_returns_by_hand() -> None:
    # gamma = 1/2, n = 2. Step 1 terminates; step 2 is cut; the row ends after step 4.
    reward = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    next_value = torch.tensor([[NAN, NAN, 8.0, NAN, 16.0]])
    terminated = torch.tensor([[False, True, False, False, False]])
    cut = torch.tensor([[False, False, True, False, False]])
    got = n_step_returns(reward, next_value, terminated, cut, 0.5, 2)
    # 1 + 1/2 * 2; 2; 3 + 1/2 * 8; 4 + 1/2 * 5 + 1/4 * 16; 5 + 1/2 * 16
    torch.testing.assert_close(got, torch.tensor([[2.0, 2.0, 7.0, 10.5, 13.0]]))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_n_step_returns_equal_the_naive_sum(n: int) -> None:
    reward, _, next_value, terminated, cut = rollout(5, 23)
    got = n_step_returns(reward, next_value, terminated, cut, 0.9, n)
    for b in range(5):
        for t in range(23):
            total, last = 0.0, t
            for k in range(n):
                last = t + k
                total += 0.9**k * reward[b, last].item()
                if terminated[b, last] or cut[b, last] or last == 22:
                    break
            if not terminated[b, last]:
                total += 0.9 ** (last - t + 1) * next_value[b, last].item()
            assert got[b, t].item() == pytest.approx(total, rel=1e-12)


def test_n_step_returns_of_a_whole_row_are_lambda_returns_of_one() -> None:
    reward, _, next_value, terminated, truncated = rollout(3, 17)
    torch.testing.assert_close(
        n_step_returns(reward, next_value, terminated, truncated, 0.9, 17),
        lambda_returns(reward, next_value, terminated, truncated, 0.9, 1.0),
    )


def test_rescaling_by_hand() -> None:
    # sqrt(3 + 1) - 1 = 1 and 0.01 * 3; sqrt(8 + 1) - 1 = 2 and 0.01 * 8, with the sign.
    got = rescale(torch.tensor([3.0, -8.0, 0.0]), 0.01)
    torch.testing.assert_close(got, torch.tensor([1.03, -2.08, 0.0]))
    torch.testing.assert_close(unrescale(got, 0.01), torch.tensor([3.0, -8.0, 0.0]))


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.1])
def test_unrescale_inverts_rescale_at_every_size(eps: float) -> None:
    size = torch.logspace(-8, 7, 50)
    x = torch.cat([-size, torch.zeros(1), size])
    torch.testing.assert_close(unrescale(rescale(x, eps), eps), x, rtol=2e-6, atol=0)
    if eps:
        y = x.double()
        root = ((1 + 4 * eps * (y.abs() + 1 + eps)).sqrt() - 1) / (2 * eps)
        torch.testing.assert_close(unrescale(y, eps), y.sign() * (root.square() - 1))
