"""Scans in segments: rows that are longer than the memory of a backward pass.

Only the states between segments are kept. The backward pass computes each segment again, from the
state before it (Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv
1604.06174): memory for one segment at a time, in exchange for a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlmem import tree


def scan_in_segments(
    scan: Callable[..., tuple[Tensor, Any]],
    x: Float[Tensor, "B T I"],
    state: Any,
    start: Bool[Tensor, "B T"],
    length: int,
) -> tuple[Float[Tensor, "B T O"], Any]:
    """`scan(x, state, start)` with the same results and gradients, `length` steps at a time.

    The first call imports torch's compiler, which takes a second or two and 0.1 GB.
    """
    outputs = []
    for part, begin in zip(x.split(length, dim=1), start.split(length, dim=1), strict=True):
        if torch.is_grad_enabled():
            y, state = checkpoint(
                scan, part, state, begin, use_reentrant=False, preserve_rng_state=False
            )
        else:
            y, state = scan(part, state, begin)
        # A view would keep the memory of its segment alive.
        state = tree.map(lambda leaf: leaf.clone(), state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state
