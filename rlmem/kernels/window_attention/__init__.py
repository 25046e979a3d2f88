"""Causal attention over a sliding window of the same episode."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.window_attention.ops import attend
from rlmem.kernels.window_attention.reference import segments, window_attention_reference

__all__ = ["segments", "window_attention", "window_attention_reference"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alive: Tensor,
    start: Tensor,
    position_query: Tensor | None = None,
    relative: Tensor | None = None,
) -> Tensor:
    """Position t of a row attends to itself and to the M before it, as far as its episode holds
    them: `y[t] = sum_j softmax_j(score(t, j)) value[j]`, [B, T, H, E].

        score(t, j) = (query[t] . key[j] + position_query[t] . relative[t - j]) / sqrt(D)

    `query` and `position_query` are [B, T, H, D]; `key` [B, M+T, H, D] and `value` [B, M+T, H, E]
    begin with M positions before the row, oldest first, of which `alive` [B, M] (bool) says which
    belong to the episode that is running; `start` [B, T] is bool. `relative` [M+1, H, D] is by
    distance, 0 first; without it the second term is missing. Transformer-XL's scores (Dai et al.
    2019, arXiv 1901.02860, section 3.3) are `query = q + u`, `position_query = q + v`.

    The window slides: every position sees M others, whatever the row's borders are. Memory is
    O(T) between forward and backward, and O(M) times a block of positions within them, or times all
    of them where the kernels for GPUs take `relative`. Computed in float32, or float64 where an
    input is; the result has the promoted dtype of the inputs.
    Differentiable once in all but `alive` and `start`. What a start hides has weight 0, which
    hides all numbers but NaN and Inf. A ValueError says what is wrong with the arguments.
    """
    _check(query, key, value, alive, start, position_query, relative)
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if position_query is None or relative is None:
        relative = position_query = query.new_empty(0)
    given = (query, key, value, position_query, relative)
    y, _ = attend(*(each.to(wide) for each in given), segments(alive, start))
    return y.to(dtype)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alive: Tensor,
    start: Tensor,
    position_query: Tensor | None,
    relative: Tensor | None,
) -> None:
    if query.dim() != 4 or 0 in query.shape:
        raise _error(f"query must be [B, T, H, D], each at least 1, not {list(query.shape)}")
    if (position_query is None) != (relative is None):
        raise _error("position_query and relative go together")
    rows, time, heads, size = query.shape
    if alive.dim() != 2 or len(alive) != rows:
        raise _error(f"alive must be [{rows}, M], not {list(alive.shape)}")
    past = alive.shape[1]
    wanted: dict[str, tuple[Tensor | None, list[int]]] = {
        "key": (key, [rows, past + time, heads, size]),
        "value": (value, [rows, past + time, heads, value.shape[-1]]),
        "start": (start, [rows, time]),
        "position_query": (position_query, list(query.shape)),
        "relative": (relative, [past + 1, heads, size]),
    }
    for name, (each, shape) in wanted.items():
        if each is not None and list(each.shape) != shape:
            raise _error(f"{name} must be {shape}, not {list(each.shape)}")
    for name, each in (("alive", alive), ("start", start)):
        if each.dtype != torch.bool:
            raise _error(f"{name} must be torch.bool, not {each.dtype}")
    given = {"query": query, "key": key, "value": value}
    given |= {name: each for name, (each, _) in wanted.items() if each is not None}
    for name, each in given.items():
        if each.dtype not in _DTYPES and name != "start":
            raise _error(f"{name} is {each.dtype}; allowed are {_DTYPES}")
    devices = {name: str(each.device) for name, each in (given | {"alive": alive}).items()}
    if len(set(devices.values())) > 1:
        raise _error(f"all tensors must be on one device, not {devices}")


def _error(what: str) -> ValueError:
    return ValueError(f"window_attention: {what}")
