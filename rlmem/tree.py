"""Functions on trees of tensors, such as states: a Tensor, or a (named) tuple of trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def map(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `fn` to each leaf of `tree` and the matching leaves of `rest`; same structure."""
    if isinstance(tree, Tensor):
        return fn(tree, *rest)
    nodes = [map(fn, *parts) for parts in zip(tree, *rest, strict=True)]
    return type(tree)(*nodes) if hasattr(tree, "_fields") else tuple(nodes)


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of `tree`, in order."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for part in tree:
            yield from leaves(part)


def select(mask: Tensor, yes: Any, no: Any) -> Any:
    """Rows of `yes` where `mask` [B] is True and rows of `no` elsewhere, for each leaf.

    This selects instead of multiplying: values not selected leave no trace, not even a NaN.
    """

    views: dict[int, Tensor] = {}  # the mask with so many dimensions of size 1 at the end

    def pick(a: Tensor, b: Tensor) -> Tensor:
        extra = a.dim() - mask.dim()
        if extra not in views:
            views[extra] = mask.view(*mask.shape, *(1,) * extra)
        return torch.where(views[extra], a, b)

    return map(pick, yes, no)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU: all copies begin at once, then one wait is for all of them."""
    copies = {name: leaf.to("cpu", non_blocking=True) for name, leaf in tensors.items()}
    for device in {leaf.device for leaf in tensors.values()}:
        if device.type != "cpu":
            torch.cuda.synchronize(device)
    return copies


def write(buffer: Tensor, value: Tensor, place: int | Tensor, dim: int) -> None:
    """Write `value` to a place [1] along a dimension: known to the host, or to the device alone."""
    if isinstance(place, int):
        buffer.select(dim, place).copy_(value)
    else:
        buffer.index_copy_(dim, place, value.to(buffer.dtype).unsqueeze(dim))
