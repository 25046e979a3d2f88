"""States of several ranks, shared out anew when a run goes on with another number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def rows(parts: Sequence[Tensor], first: int, count: int, dim: int = 0) -> Tensor:
    """Rows `first` .. `first + count - 1` of the parts of all ranks, one after the other."""
    return torch.cat(list(parts), dim).narrow(dim, first, count).clone()


def tree_rows(parts: Sequence[Any], first: int, count: int) -> Any:
    """`rows` for each tensor in equal dicts and lists of tensors."""
    one = parts[0]
    if isinstance(one, dict):
        return {key: tree_rows([part[key] for part in parts], first, count) for key in one}
    if isinstance(one, list):
        return [tree_rows(each, first, count) for each in zip(*parts, strict=True)]
    return rows(parts, first, count)


def row_dim(before: Sequence[int], now: Sequence[int], rows: tuple[int, int]) -> int | None:
    """The only dimension in which two shapes differ, if it has these two sizes; else None.

    These are the numbers of rows before and now, which must differ.
    """
    if len(before) != len(now):
        return None
    differing = [i for i, sizes in enumerate(zip(before, now, strict=True)) if sizes[0] != sizes[1]]
    if len(differing) != 1:
        return None
    (dim,) = differing
    return dim if (before[dim], now[dim]) == rows else None
