"""Where the episodes of a row lie."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def ages(age: Int[Tensor, "B"], start: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Steps of its episode that are past at each step of a row, `age` at the row's beginning."""
    place = torch.arange(start.shape[1], device=start.device)
    last = torch.where(start, place, -1).cummax(1).values
    return torch.where(last >= 0, place - last, place + age[:, None])


def next_age(age: Int[Tensor, "B"], start: Bool[Tensor, "B T"]) -> Int[Tensor, "B"]:
    """Steps of the running episode that are past when the row is."""
    return ages(age, start)[:, -1] + 1
