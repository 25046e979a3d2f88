"""Window attention and its backward as torch.library operators: autograd, tracing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.native import FLOATS, check_shapes, check_tensors
from rlmem.kernels.operator import define, refuse_autograd, register_kernel
from rlmem.kernels.window_attention import torch_form
from rlmem.kernels.window_attention.reference import segments


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alive: Tensor,
    start: Tensor,
    position_query: Tensor | None = None,
    relative: Tensor | None = None,
) -> Tensor:
    """Each position attends to itself and the M before it, as far as they are in its episode:
    `y[t] = sum_j softmax_j(score(t, j)) value[j]`, [B, T, H, E].

        score(t, j) = (query[t] . key[j] + position_query[t] . relative[t - j]) / sqrt(D)

    `query` and `position_query` are [B, T, H, D]. `key` [B, M+T, H, D] and `value` [B, M+T, H, E]
    begin with M cached positions from before the row, oldest first; `alive` [B, M] (bool) marks
    those in the episode that is running. `start` [B, T] is bool. `relative` [M+1, H, D] is indexed
    by distance, 0 first; without it there is no second term. Transformer-XL's scores (Dai et al.
    2019, arXiv 1901.02860, section 3.3) are `query = q + u`, `position_query = q + v`.

    The window slides: every position sees M others, independent of the row's borders. Memory is
    O(T) between forward and backward, and O(M) times a block of positions within each pass, or
    O(M T) in the Triton kernels with `relative`. Computed in float32, or in float64 if an input is;
    the result has the promoted dtype of the inputs. Differentiable once, in everything but `alive`
    and `start`. Positions before a start have weight 0, which hides all values but NaN and Inf.
    Raises `ValueError` if an argument has a wrong shape, dtype, layout or device.
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
    named: dict[str, Tensor | None] = {"query": query, "key": key, "value": value}
    named |= {"alive": alive, "start": start}
    named |= {"position_query": position_query, "relative": relative}
    check_tensors("window_attention", named, (*FLOATS, torch.float16))
    if query.dim() != 4 or 0 in query.shape:
        raise _error(f"query must be [B, T, H, D], each at least 1, not {list(query.shape)}")
    if value.dim() != 4 or 0 in value.shape:
        raise _error(f"value must be [B, M+T, H, E], each at least 1, not {list(value.shape)}")
    if (position_query is None) != (relative is None):
        raise _error("position_query and relative must be given together")
    rows, time, heads, size = query.shape
    if alive.dim() != 2 or alive.shape[0] != rows:
        raise _error(f"alive must be [{rows}, M], not {list(alive.shape)}")
    past = alive.shape[1]
    wanted = {
        "key": (key, (rows, past + time, heads, size)),
        "value": (value, (rows, past + time, heads, value.shape[-1])),
        "start": (start, (rows, time)),
        "position_query": (position_query, query.shape),
        "relative": (relative, (past + 1, heads, size)),
    }
    check_shapes("window_attention", wanted)


def _error(problem: str) -> ValueError:
    return ValueError(f"window_attention: {problem}")


Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor at, Tensor relative, Tensor segment"
_ATTEND = f"({_INPUTS}) -> (Tensor, Tensor)"
_BACKWARD = (
    f"(Tensor grad_y, Tensor y, Tensor log_sum, {_INPUTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
MAX_WIDTH = 128  # numbers of a key or a value that a Triton kernel holds in registers


@define("window_attention", _ATTEND)
def attend(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    """`y` [B, T, H, E] and the logarithm of each position's sum of weights [B, H, T]."""
    return torch_form.forward(query, key, value, at, relative, segment)


@define("window_attention_backward", _BACKWARD)
def attend_backward(
    grad_y: Tensor,
    y: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    at: Tensor,
    relative: Tensor,
    segment: Tensor,
) -> Grads:
    """Gradients for query, key, value, at and relative."""
    return torch_form.backward(grad_y, y, log_sum, query, key, value, at, relative, segment)


def _form(query: Tensor, value: Tensor) -> ModuleType:
    """The form for CUDA tensors: the Triton kernels, or torch for unsupported dtypes and widths."""
    from rlmem.kernels.window_attention import triton_form

    narrow = max(query.shape[-1], value.shape[-1]) <= MAX_WIDTH
    return triton_form if query.dtype == torch.float32 and narrow else torch_form


@register_kernel(attend, "cuda")
def _attend_cuda(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    return _form(query, value).forward(query, key, value, at, relative, segment)


@register_kernel(attend_backward, "cuda")
def _attend_backward_cuda(grad_y: Tensor, y: Tensor, log_sum: Tensor, *inputs: Tensor) -> Grads:
    return _form(inputs[0], inputs[2]).backward(grad_y, y, log_sum, *inputs)


@torch.library.register_fake(attend)
def _attend_fake(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    rows, time, heads, _ = query.shape
    return query.new_empty(rows, time, heads, value.shape[3]), query.new_empty(rows, heads, time)


@torch.library.register_fake(attend_backward)
def _attend_backward_fake(
    grad_y: Tensor, y: Tensor, log_sum: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    return tuple(each.new_empty(each.shape) for each in inputs[:5])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_backward(grad_y, *ctx.saved_tensors), None


torch.library.register_autograd(attend, _backward, setup_context=_setup)
refuse_autograd(attend_backward)

# Without this, the matrix products would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(attend, _device, torch.float32)
    torch.library.register_autocast(attend_backward, _device, torch.float32)
