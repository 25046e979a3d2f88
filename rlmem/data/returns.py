"""Returns and advantages, most of them linear recurrences backwards in time.

Every argument is [B, T]; row b holds consecutive steps of one environment and may span several
episodes. Step t is the last of its episode if `terminated[b, t]` (by the task's rules) or
`truncated[b, t]` (from outside, e.g. by a time limit). `next_value[b, t]` is the value of the
observation after step t: at a truncated step the episode's final observation, never the first one
of the next episode. `next_value` is not read at terminated steps.
"""

from __future__ import annotations

from typing import Any

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
    """Generalised advantage estimates and value targets (Schulman et al. 2016, eq. 11-16).

        delta[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - value[t]
        advantage[t] = delta[t] + gamma * gae_lambda * (0 if done[t] else advantage[t+1])
        target[t] = advantage[t] + value[t]

    `advantage[T]` is zero: the delta of the last step already includes the bootstrap.
    """
    done = terminated | truncated
    delta = reward + gamma * _unless_terminated(terminated, next_value) - value
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

        G[t] = reward[t]                                                  if terminated[t]
        G[t] = reward[t] + gamma * next_value[t]                          if truncated[t]
        G[t] = reward[t] + gamma * ((1 - gae_lambda) * next_value[t] + gae_lambda * G[t+1])    else

    with `G[T] = next_value[T-1]`. Equal to the target of `gae` if `next_value[t] = value[t+1]`.
    """
    done = terminated | truncated
    bootstrap = _unless_terminated(terminated, next_value)
    one_step = reward + gamma * torch.where(done, bootstrap, (1 - gae_lambda) * bootstrap)
    return _scan_back(one_step, done, gamma * gae_lambda, next_value[:, -1])


def discounted_sum(
    x: Float[Tensor, "B T"],
    done: Bool[Tensor, "B T"],
    gamma: float,
    bootstrap: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, "B T"]:
    """`G[t] = x[t] + gamma * (0 if done[t] else G[t+1])` (Sutton and Barto 2018, eq. 3.9).

    `bootstrap` is `G[T]`, the return after the last step of a row; zero if not given.
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
    """n-step returns: n rewards and the value after them (Sutton and Barto 2018, eq. 7.1).

        G[t] = sum(gamma^k reward[t+k] for k < m) + gamma^m next_value[t+m-1]

    with m = n, or fewer: the sum ends at the first step s >= t with `terminated[s]` (then without
    the value), with `cut[s]`, or at the last step of the row.
    """
    bootstrap = gamma * _unless_terminated(terminated, next_value)
    ended = (terminated | cut)[:, :-1]
    returns = reward + bootstrap
    for _ in range(n - 1):
        following = torch.where(ended, bootstrap[:, :-1], gamma * returns[:, 1:])
        returns = reward + torch.cat([following, bootstrap[:, -1:]], dim=1)
    return returns


def rescale(x: Float[Tensor, "*N"], eps: float = 1e-3) -> Float[Tensor, "*N"]:
    """`h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x` (Pohlen et al. 2018, arXiv 1805.11593).

    It compresses large returns; `unrescale` is its inverse.
    """
    # sqrt(|x| + 1) - 1 without subtracting nearly equal numbers.
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def unrescale(x: Float[Tensor, "*N"], eps: float = 1e-3) -> Float[Tensor, "*N"]:
    """The inverse of `rescale` (Pohlen et al. 2018, proposition A.2):

    `sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))^2 - 1)`
    """
    size = x.abs()
    # The same without subtracting nearly equal numbers, for accuracy in float32:
    # root = 1 + y is the positive solution of eps root^2 + root = |x| + 1 + eps.
    y = 2 * size / (1 + 2 * eps + (1 + 4 * eps * (size + 1 + eps)).sqrt())
    return x.sign() * y * (y + 2)


def _unless_terminated(terminated: Tensor, next_value: Tensor) -> Tensor:
    return torch.where(terminated, torch.zeros_like(next_value), next_value)


def _scan_back(x: Tensor, done: Tensor, gate: float, last: Tensor | None = None) -> Tensor:
    """`h[t] = x[t] + gate * (0 if done[t] else h[t+1])`, with `h[T] = last`, or 0."""
    h0 = None if last is None else last[:, None]
    return linear_scan(x.new_full((1,), gate), x[..., None], h0, done, reverse=True)[..., 0]


class EpisodeSums:
    """Running returns and lengths of episodes, carried from one row [N, T] to the next.

    The sums are reset at every start; so a trial of several episodes counts as one.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.carried = torch.zeros(num_envs, 2, device=device)

    def ended(
        self,
        reward: Float[Tensor, "N T"],
        start: Bool[Tensor, "N T"],
        following: Bool[Tensor, "N"],
    ) -> tuple[Float[Tensor, "E"], Float[Tensor, "E"]]:
        """Returns and lengths of episodes that ended in these rows.

        `following` are the starts of the time step after the rows.
        """
        value = torch.stack([reward, torch.ones_like(reward)], dim=-1)
        sums = linear_scan(torch.ones_like(value[0, 0]), value, self.carried, start)
        self.carried = sums[:, -1]
        returns, lengths = sums[torch.cat([start[:, 1:], following[:, None]], 1)].unbind(-1)
        return returns, lengths

    def state_dict(self) -> dict[str, Any]:
        """The sums of unfinished episodes."""
        return {"carried": self.carried.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.carried = state["carried"].to(self.carried.device, copy=True)


class DiscountedReturns:
    """Running discounted returns, forward in time, carried from one row [N, T] to the next.

        G[t] = reward[t] + gamma * (0 if done[t-1] else G[t-1])

    Their deviation is the scale of the rewards, as in Gymnasium's and OpenAI baselines' wrappers.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.carried = torch.zeros(num_envs, 1, device=device)
        self.done = torch.ones(num_envs, dtype=torch.bool, device=device)

    def __call__(
        self, reward: Float[Tensor, "N T"], done: Bool[Tensor, "N T"], gamma: float
    ) -> Float[Tensor, "N T"]:
        """The returns of the next rows."""
        begin = torch.cat([self.done[:, None], done[:, :-1]], dim=1)
        gate = reward.new_full((1,), gamma)
        returns = linear_scan(gate, reward[..., None], self.carried, begin)[..., 0]
        self.carried, self.done = returns[:, -1:], done[:, -1]
        return returns

    def state_dict(self) -> dict[str, Any]:
        """The returns up to now, and the ended episodes."""
        return {"carried": self.carried.clone(), "done": self.done.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.carried = state["carried"].to(self.carried.device, copy=True)
        self.done = state["done"].to(self.done.device, copy=True)


def summary(returns: Float[Tensor, "E"], lengths: Float[Tensor, "E"]) -> dict[str, float]:
    """The metrics of some episodes: their number, and mean return and length if there are any."""
    metrics = {"episodes": float(len(returns))}
    if len(returns):
        # One read for both: it waits for the device.
        mean = torch.stack([returns.mean(), lengths.mean()]).tolist()
        metrics["episode_return"], metrics["episode_length"] = mean
    return metrics
