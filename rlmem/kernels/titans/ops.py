"""Test-time memory and its backward as operators of torch: autograd, tracing.

Where the chunks of a row lie depends on its starts, which a traced program must not look at: the
operator hides the loop. Its backward runs the chunks once more, with autograd's record of them, and
so holds through the inner gradients too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.titans.chunks import run
from rlmem.kernels.titans.reference import Learned, Matrices, Rates

_LEARN = "(Tensor[] given, Tensor age, Tensor start, int chunk, float? limit) -> Tensor[]"
_BACKWARD = (
    "(Tensor[] grads, Tensor[] given, Tensor age, Tensor start, int chunk, float? limit) "
    "-> Tensor[]"
)
_define = partial(torch.library.custom_op, mutates_args=())
_TOKENS = 6  # q, k, v and three rates; then as many matrices for each of four kinds


@_define("rlmem::titans", schema=_LEARN)
def learn_row(
    given: list[Tensor], age: Tensor, start: Tensor, chunk: int, limit: float | None
) -> list[Tensor]:
    """`given` is q, k, v, theta, eta, alpha, then first weights, weights, momentum, anchor.

    Returns `y`, then weights, momentum and anchor after the row.
    """
    return _copies(_run(given, age, start, chunk, limit), given)


@_define("rlmem::titans_backward", schema=_BACKWARD)
def learn_row_backward(
    grads: list[Tensor],
    given: list[Tensor],
    age: Tensor,
    start: Tensor,
    chunk: int,
    limit: float | None,
) -> list[Tensor]:
    """Gradients for all of `given`."""
    with _recording():
        leaves = [each.detach().requires_grad_() for each in given]
        results = _run(leaves, age, start, chunk, limit)
    found = torch.autograd.grad(results, leaves, grads, allow_unused=True, materialize_grads=True)
    return _copies(found, grads)


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd inside of an operator, below which torch switches it off for this thread."""
    keys = torch._C.DispatchKey
    with ExitStack() as stack:
        for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.ADInplaceOrView):
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        stack.enter_context(torch.enable_grad())
        yield


def _run(
    given: list[Tensor], age: Tensor, start: Tensor, chunk: int, limit: float | None
) -> list[Tensor]:
    q, k, v, *rates = given[:_TOKENS]
    layers = (len(given) - _TOKENS) // 4
    first, weight, momentum, anchor = grouped(given[_TOKENS:], layers)
    state = Learned(weight, momentum, anchor, age)
    y, final = run(q, k, v, Rates(*rates), first, state, start, chunk, limit)
    return [y, *final.weight, *final.momentum, *final.anchor]


def grouped(matrices: Sequence[Tensor], layers: int) -> list[Matrices]:
    """A list of matrices by kind: all layers of the first kind, then all of the second, ..."""
    return [tuple(matrices[i : i + layers]) for i in range(0, len(matrices), layers)]


def _copies(results: Any, inputs: list[Tensor]) -> list[Tensor]:
    """An operator's results may not be its inputs, nor one another."""
    taken = {each.untyped_storage().data_ptr() for each in inputs}
    fresh = []
    for each in results:
        pointer = each.untyped_storage().data_ptr()
        fresh.append(each.detach().clone() if pointer in taken else each.detach().contiguous())
        taken.add(pointer)
    return fresh


@learn_row.register_fake
def _fake(
    given: list[Tensor], age: Tensor, start: Tensor, chunk: int, limit: float | None
) -> list[Tensor]:
    layers = (len(given) - _TOKENS) // 4
    shapes = [given[2].shape, *(each.shape for each in given[_TOKENS + layers :])]
    return [given[0].new_empty(shape) for shape in shapes]


@learn_row_backward.register_fake
def _backward_fake(grads: list[Tensor], given: list[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in given]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given, age, start, ctx.chunk, ctx.limit = inputs
    ctx.save_for_backward(*given, age, start)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    *given, age, start = ctx.saved_tensors
    found = learn_row_backward(list(grads), given, age, start, ctx.chunk, ctx.limit)
    return found, None, None, None, None


learn_row.register_autograd(_backward, setup_context=_setup)
