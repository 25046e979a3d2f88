"""Returns and advantages, most of them linear recurrences that run backwards through time.

Every argument is [B, T]; row b is a stretch of one environment's life that may hold several
episodes. `terminated[b, t]` and `truncated[b, t]` say that step t was the last of its episode: by
the task's own rules, or cut off from outside. `next_value[b, t]` is the value of the observation
that really followed step t: where the episode was truncated that is its final observation, never
the first one of the next episode. Where `terminated`, nothing follows and `next_value` is not read.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.kernels import linear_scan


def gae(
    reward: Float[Tensor, "B T"],
    value: Float[Tensor, "B T"],
    next_value: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    truncated: Bool[Tensor, "B T"],
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimates and the values' targets (Schulman et al. 2016, eq. 11-16).

        delta[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - value[t]
        advantage[t] = delta[t] + gamma * gae_lambda * (0 if done[t] else advantage[t+1])
        target[t] = advantage[t] + value[t]

    `advantage[T]` is zero: the last step's delta already holds the bootstrap.
    """
    done = terminated | truncated
    delta = reward + gamma * _where_alive(terminated, next_value) - value
    advantage = _scan_back(delta, done, gamma * gae_lambda)
    return advantage, advantage + value


def lambda_returns(
    reward: Float[Tensor, "B T"],
    next_value: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    truncated: Bool[Tensor, "B T"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "B T"]:
    """TD(lambda) returns (Sutton and Barto 2018, eq. 12.18 for the state values, unrolled).

        G[t] = reward[t]                                               where terminated[t]
        G[t] = reward[t] + gamma * next_value[t]                       where truncated[t]
        G[t] = reward[t] + gamma * ((1 - gae_lambda) * next_value[t] + gae_lambda * G[t+1])

    with `G[T] = next_value[T-1]`. Equal to the target of `gae` where `next_value[t] = value[t+1]`.
    """
    done = terminated | truncated
    bootstrap = _where_alive(terminated, next_value)
    one_step = reward + gamma * torch.where(done, bootstrap, (1 - gae_lambda) * bootstrap)
    return _scan_back(one_step, done, gamma * gae_lambda, next_value[:, -1])


def discounted_sum(
    x: Float[Tensor, "B T"],
    done: Bool[Tensor, "B T"],
    gamma: float,
    bootstrap: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, "B T"]:
    """`G[t] = x[t] + gamma * (0 if done[t] else G[t+1])` (Sutton and Barto 2018, eq. 3.9).

    `bootstrap` stands for `G[T]`, what follows the last step of a row; zero if not given.
    """
    return _scan_back(x, done, gamma, bootstrap)


def n_step_returns(
    reward: Float[Tensor, "B T"],
    next_value: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    cut: Bool[Tensor, "B T"],
    gamma: float,
    n: int,
) -> Float[Tensor, "B T"]:
    """The rewards of the next n steps and the value after them (Sutton and Barto 2018, eq. 7.1).

        G[t] = sum(gamma^k reward[t+k] for k < m) + gamma^m next_value[t+m-1]

    with m = n, or fewer: up to the first step s >= t where `terminated[s]`, of which the value is
    left out, or `cut[s]`, or which is the last of the row.
    """
    bootstrap = gamma * _where_alive(terminated, next_value)
    over = (terminated | cut)[:, :-1]
    returns = reward + bootstrap
    for _ in range(n - 1):
        following = torch.where(over, bootstrap[:, :-1], gamma * returns[:, 1:])
        returns = reward + torch.cat([following, bootstrap[:, -1:]], dim=1)
    return returns


def rescale(x: Float[Tensor, "*N"], eps: float = 1e-3) -> Float[Tensor, "*N"]:
    """`h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x` (Pohlen et al. 2018, arXiv 1805.11593).

    It brings returns of any size near to each other; `unrescale` is its inverse.
    """
    # (sqrt(|x| + 1) - 1) without the difference of two nearly equal numbers.
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def unrescale(x: Float[Tensor, "*N"], eps: float = 1e-3) -> Float[Tensor, "*N"]:
    """The inverse of `rescale` (Pohlen et al. 2018, proposition A.2):

    `sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))^2 - 1)`
    """
    size = x.abs()
    # The same with the differences of nearly equal numbers multiplied out, which float32 needs:
    # root = 1 + y is the positive zero of eps root^2 + root = |x| + 1 + eps.
    y = 2 * size / (1 + 2 * eps + (1 + 4 * eps * (size + 1 + eps)).sqrt())
    return x.sign() * y * (y + 2)


def _where_alive(terminated: Tensor, next_value: Tensor) -> Tensor:
    return torch.where(terminated, torch.zeros_like(next_value), next_value)


def _scan_back(x: Tensor, done: Tensor, gate: float, last: Tensor | None = None) -> Tensor:
    """`h[t] = x[t] + gate * (0 if done[t] else h[t+1])`, `h[T] = last`."""
    h0 = None if last is None else last[:, None]
    return linear_scan(x.new_tensor([gate]), x[..., None], h0, done, reverse=True)[..., 0]
