"""Positions of steps within their episodes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def ages(age: Int[Tensor, "B"], start: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The position of each step in its episode; `age` is that of the row's first step."""
    place = torch.arange(start.shape[1], device=start.device)
    last = torch.where(start, place, -1).cummax(1).values
    return torch.where(last >= 0, place - last, place + age[:, None])


def next_age(age: Int[Tensor, "B"], start: Bool[Tensor, "B T"]) -> Int[Tensor, "B"]:
    """The position in its episode of the step that follows the row."""
    return ages(age, start)[:, -1] + 1
