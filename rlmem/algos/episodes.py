"""Returns and lengths of the episodes that end while an algorithm plays."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.kernels import linear_scan


class EpisodeSums:
    """Sums along rows [N, T] that begin anew at every start, carried from one row to the next.

    Of a trial of several episodes they are those of the whole trial.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.carried = torch.zeros(num_envs, 2, device=device)

    def ended(
        self,
        reward: Float[Tensor, "N T"],
        start: Bool[Tensor, "N T"],
        following: Bool[Tensor, "N"],
    ) -> tuple[Float[Tensor, "E"], Float[Tensor, "E"]]:
        """Returns and lengths of what ended in these rows; `following` is the start after them."""
        value = torch.stack([reward, torch.ones_like(reward)], dim=-1)
        sums = linear_scan(torch.ones_like(value[0, 0]), value, self.carried, start)
        self.carried = sums[:, -1]
        returns, lengths = sums[torch.cat([start[:, 1:], following[:, None]], 1)].unbind(-1)
        return returns, lengths


def summary(returns: Float[Tensor, "E"], lengths: Float[Tensor, "E"]) -> dict[str, float]:
    """The metrics of some episodes: how many, and their means if there are any."""
    metrics = {"episodes": float(len(returns))}
    if len(returns):
        metrics["episode_return"] = returns.mean().item()
        metrics["episode_length"] = lengths.mean().item()
    return metrics
