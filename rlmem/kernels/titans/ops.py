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
from rlmem.kernels.titans.rule import Rule

_RULE = (
    "int chunk, float? limit, str bias, float power, str retention, float norm, int window, "
    "int orthogonal"
)
_LEARN = f"(Tensor[] given, Tensor age, Tensor start, {_RULE}) -> Tensor[]"
_BACKWARD = f"(Tensor[] grads, Tensor[] given, Tensor age, Tensor start, {_RULE}) -> Tensor[]"
_define = partial(torch.library.custom_op, mutates_args=())
_TOKENS = 8  # q, k, v and five rates; then as many matrices for each of four kinds


@_define("rlmem::titans", schema=_LEARN)
def learn_row(given: list[Tensor], age: Tensor, start: Tensor, *rule: Any) -> list[Tensor]:
    """`given` is q, k, v, theta, eta, alpha, gamma, delta, then first weights, weights, momentum,
    anchor, and recent tokens if the window is longer than one.

    Returns `y`, then weights, momentum, anchor and recent tokens after the row.
    """
    return _copies(_run(given, age, start, Rule(*rule)), given)


@_define("rlmem::titans_backward", schema=_BACKWARD)
def learn_row_backward(
    grads: list[Tensor], given: list[Tensor], age: Tensor, start: Tensor, *rule: Any
) -> list[Tensor]:
    """Gradients for all of `given`."""
    with _recording():
        leaves = [each.detach().requires_grad_() for each in given]
        results = _run(leaves, age, start, Rule(*rule))
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


def _run(given: list[Tensor], age: Tensor, start: Tensor, rule: Rule) -> list[Tensor]:
    q, k, v, *rates = given[:_TOKENS]
    matrices, recent = unzipped(given[_TOKENS:], rule)
    first, weight, momentum, anchor = grouped(matrices, len(matrices) // 4)
    state = Learned(weight, momentum, anchor, age, recent)
    y, final = run(q, k, v, Rates(*rates), first, state, start, rule)
    return [y, *flat(final)]


def flat(state: Learned) -> list[Tensor]:
    """All of a state but its age."""
    recent = [state.recent] if isinstance(state.recent, Tensor) else []
    return [*state.weight, *state.momentum, *state.anchor, *recent]


def unzipped(tensors: Sequence[Tensor], rule: Rule) -> tuple[list[Tensor], Tensor | tuple[()]]:
    """The matrices of a list, and the recent tokens behind them."""
    if rule.window == 1:
        return list(tensors), ()
    return list(tensors[:-1]), tensors[-1]


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
def _fake(given: list[Tensor], age: Tensor, start: Tensor, *rule: Any) -> list[Tensor]:
    matrices, _ = unzipped(given[_TOKENS:], Rule(*rule))
    shapes = [given[2].shape, *(each.shape for each in given[_TOKENS + len(matrices) // 4 :])]
    return [given[0].new_empty(shape) for shape in shapes]


@learn_row_backward.register_fake
def _backward_fake(grads: list[Tensor], given: list[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in given]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given, age, start, *ctx.rule = inputs
    ctx.save_for_backward(*given, age, start)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    *given, age, start = ctx.saved_tensors
    found = learn_row_backward(list(grads), given, age, start, *ctx.rule)
    return found, None, None, *(None for _ in ctx.rule)


def _picked(x: Any, dim: Any, i: int) -> Any:
    """Entry `i` of an argument that torch.vmap maps over."""
    if isinstance(x, (list, tuple)):
        return [_picked(each, at, i) for each, at in zip(x, dim, strict=True)]
    return x if dim is None else x.select(dim, i)


def _vmap(op: Any, info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
    """Weights are not shared between the entries of an outer batch: one after the other."""
    results = [
        op(*(_picked(x, dim, i) for x, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = [torch.stack(each) for each in zip(*results, strict=True)]
    return stacked, [0] * len(stacked)


learn_row.register_autograd(_backward, setup_context=_setup)
learn_row.register_vmap(partial(_vmap, learn_row))
learn_row_backward.register_vmap(partial(_vmap, learn_row_backward))

# Without this the matrix products inside would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    learn_row.register_autocast(_device, torch.float32)
    learn_row_backward.register_autocast(_device, torch.float32)
