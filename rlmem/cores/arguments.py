"""Messages for wrong arguments of `initial_state`, `step` and `scan`; `base.py` finds them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from rlmem import tree
from rlmem.errors import UsageError

# `torch.export` counts the rows of a batch of any size by a symbol.
Rows = int | torch.SymInt


def row_count(core: nn.Module, batch_size: Any) -> int:
    """`batch_size`, a number such as NumPy's; a `UsageError` if it is no integer of at least 0."""
    try:
        rows = operator.index(batch_size)
    except TypeError:
        rows = -1
    if rows < 0:
        raise UsageError(
            f"{type(core).__name__}.initial_state: batch_size must be an integer of at least 0, "
            f"not {batch_size!r}"
        )
    return rows


def input_problem(core: nn.Module, method: str, x: Any, start: Any, dims: int) -> UsageError:
    """The error for an `x` of `dims` dimensions or a `start` that a core cannot read."""
    who = f"{type(core).__name__}.{method}"
    for name, value in (("x", x), ("start", start)):
        if problem := _layout_problem(core, value):
            return UsageError(f"{who}: {name} must be {problem}")
    if not x.is_floating_point():
        return UsageError(f"{who}: x must be a floating-point tensor, not {x.dtype}")
    letters = ("B", "T")[: dims - 1]
    if x.dim() != dims or x.shape[-1] != core.input_size or 0 in x.shape:
        wanted = ", ".join([*letters, str(core.input_size)])
        return UsageError(
            f"{who}: x must be [{wanted}] with {' and '.join(letters)} at least 1, "
            f"not {list(x.shape)}"
        )
    return UsageError(
        f"{who}: start must be [{', '.join(letters)}] = {list(x.shape[:-1])} of torch.bool, "
        f"not {list(start.shape)} of {start.dtype}"
    )


def state_problem(
    core: nn.Module, method: str, state: Any, like: Any, rows: Rows | None
) -> UsageError:
    """The error for a `state` without the structure and tensors of `like`, or with other `rows`."""
    who = f"{type(core).__name__}.{method}"
    wanted = list(tree.leaves(like))
    try:
        got = list(tree.leaves(state))
    except (TypeError, RecursionError, RuntimeError):
        kind = type(state).__name__
        return UsageError(f"{who}: state must be a tensor or a tuple of tensors, not {kind}")
    if len(got) != len(wanted):
        return UsageError(f"{who}: state must have {len(wanted)} tensors, not {len(got)}")
    for i, (leaf, other) in enumerate(zip(got, wanted, strict=True)):
        name = f"tensor {i} of the state"
        if problem := _layout_problem(core, leaf):
            return UsageError(f"{who}: {name} must be {problem}")
        shape = [other.shape[0] if rows is None else rows, *other.shape[1:]]
        if list(leaf.shape) != shape:
            return UsageError(f"{who}: {name} must be {shape}, not {list(leaf.shape)}")
        if leaf.dtype != other.dtype:
            return UsageError(f"{who}: {name} must be {other.dtype}, not {leaf.dtype}")
    return UsageError(f"{who}: state must be nested like that of initial_state")


def _layout_problem(core: nn.Module, value: Any) -> str | None:
    """Why `value` is not a dense tensor on the device of `core`; None if it is."""
    if not isinstance(value, Tensor):
        return f"a tensor, not {type(value).__name__}"
    if value.is_nested or value.layout is not torch.strided:
        return f"a dense tensor, not {'nested' if value.is_nested else value.layout}"
    device = core._anchor.device
    return None if value.device == device else f"on {device} like the core, not on {value.device}"
