"""Test-time memory and its backward as torch.library operators: autograd, tracing.

The chunks of a row depend on the values of its starts, which a traced program cannot inspect: the
operator hides the loop over chunks. Its backward runs that loop again under autograd, so that it
includes the inner gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.episodes import next_age
from rlmem.kernels.native import FLOATS, check_shapes, check_tensors
from rlmem.kernels.operator import define, refuse_autograd
from rlmem.kernels.titans import torch_form
from rlmem.kernels.titans.reference import Learned, Matrices, Rates
from rlmem.kernels.titans.rule import BIASES, PLAIN, RETENTIONS, Rule


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule = PLAIN,
) -> tuple[Tensor, Learned]:
    """A memory M whose weights learn `k -> v` token by token and then answer `q`; [B, T, H, D].

        S[t] = eta[t] S[t-1] - theta[t] sum_j gamma[j] grad_W loss(M_W(k[j]), v[j])
        A[t] = (1 - alpha[t]) A[t-1] + S[t],   W[t] = retain(A[t]),   y[t] = M_W[t](q[t])

    M(x) is `x W1` or `gelu(x W1) W2`. The sum is over the last `rule.window` tokens j of the
    episode; gradients are taken at the weights W of the anchor, which is the A of an earlier token.
    Titans (Behrouz et al. 2025, arXiv 2501.00663, equations 9, 10, 13 and 14) has the loss
    `|M(k) - v|^2`, without a mean, W = A, a window of one and gamma 1. The other options of `Rule`
    are those of Miras (arXiv 2504.13173, section 5.3) and Atlas (arXiv 2505.23735); the papers
    compute W from A at the borders of chunks only, here it follows from A at every token. With
    `rule.orthogonal`, A grows by theta times the orthogonalised S, and S does not contain theta.

    `q`, `k`, `v` are [B, T, H, D], the rates [B, T, H], `first` the A [H, in, out] of a new
    episode, `start` [B, T] bool, `state` the state before the row; also returns the state after it.
    The anchor moves every `rule.chunk` tokens, counted from the episode's start (1: it is always
    the last A). `rule.limit` bounds the length of a token's error, and so the effect of one token.
    Computed in float32, or in float64 if q is. Differentiable once, through the inner gradients.
    Raises `ValueError` if an argument has a wrong value, shape, dtype, layout or device.
    """
    _check_rule(rule)
    _check(q, k, v, rates, first, state, start, rule)
    dtype = torch.promote_types(q.dtype, torch.float32)
    given = [each.to(dtype) for each in (q, k, v, *rates.filled(), *first, *flatten_state(state))]
    y, *rest = learn_row(given, state.age, start, *rule)
    matrices, recent = split_recent(rest, rule)
    weight, momentum, anchor = group_by_kind(matrices, len(first))
    return y.to(q.dtype), Learned(weight, momentum, anchor, next_age(state.age, start), recent)


def _check_rule(rule: Rule) -> None:
    if rule.chunk < 1 or (rule.limit is not None and rule.limit <= 0):
        raise ValueError(
            f"titans: chunk and limit must be positive, not {rule.chunk} and {rule.limit}"
        )
    if rule.bias not in BIASES or rule.retention not in RETENTIONS:
        raise ValueError(
            f"titans: bias must be of {BIASES} and retention of {RETENTIONS}, not {rule.bias!r} "
            f"and {rule.retention!r}"
        )
    if rule.power < 1 or rule.norm < 2 or rule.window < 1 or rule.orthogonal < 0:
        raise ValueError(f"titans: power, norm, window or orthogonal is too small in {rule}")


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule,
) -> None:
    layers = len(first)
    if layers not in (1, 2):
        raise ValueError(f"titans: a memory has one matrix or two, not {layers}")
    if any(len(kind) != layers for kind in state[:3]):
        counts = [len(kind) for kind in state[:3]]
        raise ValueError(
            f"titans: each kind of the state must have {layers} matrices, not {counts}"
        )
    recent = state.recent if isinstance(state.recent, Tensor) else None
    named = {"q": q, "k": k, "v": v, **rates._asdict(), "start": start, "age": state.age}
    named["recent"] = recent
    for name, kind in zip(("first", *state._fields[:3]), (first, *state[:3]), strict=True):
        named |= {f"{name}[{i}]": each for i, each in enumerate(kind)}
    check_tensors("titans", named, (*FLOATS, torch.float16))
    for name, x in (("q", q), ("v", v)):
        if x.dim() != 4 or 0 in x.shape:
            raise ValueError(
                f"titans: {name} must be [B, T, H, D], each at least 1, not {list(x.shape)}"
            )
    if first[0].dim() != 3 or 0 in first[0].shape:
        raise ValueError(f"titans: first[0] must be [H, in, out], not {list(first[0].shape)}")
    rows, time, heads, size = q.shape
    width, values = first[0].shape[-1] if layers == 2 else v.shape[-1], v.shape[-1]
    recent_shape = (rows, rule.window - 1, heads, size + values + 2)
    if (recent is None) != (rule.window == 1):
        found = None if recent is None else list(recent.shape)
        raise ValueError(f"titans: recent must be {list(recent_shape)}, not {found}")
    shapes = {"q": q.shape, "k": q.shape, "v": (rows, time, heads, values), "start": (rows, time)}
    shapes |= dict.fromkeys(Rates._fields, (rows, time, heads))
    shapes |= {"age": (rows,), "recent": recent_shape}
    for i, shape in enumerate([(size, width), (width, values)][:layers]):
        shapes[f"first[{i}]"] = (heads, *shape)
        shapes |= {f"{name}[{i}]": (rows, heads, *shape) for name in state._fields[:3]}
    check_shapes("titans", {name: (each, shapes[name]) for name, each in named.items()})


_RULE = (
    "int chunk, float? limit, str bias, float power, str retention, float norm, int window, "
    "int orthogonal"
)
_LEARN = f"(Tensor[] given, Tensor age, Tensor start, {_RULE}) -> Tensor[]"
_BACKWARD = f"(Tensor[] grads, Tensor[] given, Tensor age, Tensor start, {_RULE}) -> Tensor[]"
_TOKENS = 8  # q, k, v and five rates; followed by four equally long lists of matrices


@define("titans", _LEARN)
def learn_row(given: list[Tensor], age: Tensor, start: Tensor, *rule: Any) -> list[Tensor]:
    """`given` is q, k, v, theta, eta, alpha, gamma, delta, then first weights, weights, momentum,
    anchor, and recent tokens if the window is longer than one.

    Returns `y`, then weights, momentum, anchor and recent tokens after the row.
    """
    return _copies(_run(given, age, start, Rule(*rule)), given)


@define("titans_backward", _BACKWARD)
def learn_row_backward(
    grads: list[Tensor], given: list[Tensor], age: Tensor, start: Tensor, *rule: Any
) -> list[Tensor]:
    """Gradients for all of `given`."""
    form = _form(given, Rule(*rule))
    with _recording():
        if form is not torch_form:
            y, *matrices = grads
            kinds = group_by_kind(matrices, len(matrices) // 3)
            return _copies(form.backward(y, kinds, *_row(given, age, start, Rule(*rule))), grads)
        leaves = [each.detach().requires_grad_() for each in given]
        results = _run(leaves, age, start, Rule(*rule))
    found = torch.autograd.grad(results, leaves, grads, allow_unused=True, materialize_grads=True)
    return _copies(found, grads)


@contextmanager
def _recording() -> Iterator[None]:
    """Enable autograd inside an operator, where torch disables it for the thread."""
    keys = torch._C.DispatchKey
    with ExitStack() as stack:
        for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.ADInplaceOrView):
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        stack.enter_context(torch.enable_grad())
        yield


def _form(given: list[Tensor], rule: Rule) -> Any:
    """The module that computes this rule on this device."""
    if given[0].device.type == "cuda":
        from rlmem.kernels.titans import triton_form

        if triton_form.supports(given[2], rule):
            return triton_form
    return torch_form


def _run(given: list[Tensor], age: Tensor, start: Tensor, rule: Rule) -> list[Tensor]:
    y, final = _form(given, rule).forward(*_row(given, age, start, rule))
    return [y, *flatten_state(final)]


def _row(given: list[Tensor], age: Tensor, start: Tensor, rule: Rule) -> tuple[Any, ...]:
    """The arguments of a form."""
    q, k, v, *rates = given[:_TOKENS]
    matrices, recent = split_recent(given[_TOKENS:], rule)
    first, weight, momentum, anchor = group_by_kind(matrices, len(matrices) // 4)
    return (
        q,
        k,
        v,
        Rates(*rates),
        first,
        Learned(weight, momentum, anchor, age, recent),
        start,
        rule,
    )


def flatten_state(state: Learned) -> list[Tensor]:
    """All tensors of a state but its age."""
    recent = [state.recent] if isinstance(state.recent, Tensor) else []
    return [*state.weight, *state.momentum, *state.anchor, *recent]


def split_recent(tensors: Sequence[Tensor], rule: Rule) -> tuple[list[Tensor], Tensor | tuple[()]]:
    """Split a list into its matrices and the recent tokens after them."""
    if rule.window == 1:
        return list(tensors), ()
    return list(tensors[:-1]), tensors[-1]


def group_by_kind(matrices: Sequence[Tensor], layers: int) -> list[Matrices]:
    """Split a list of matrices by kind: all layers of the first kind, then of the second, ..."""
    return [tuple(matrices[i : i + layers]) for i in range(0, len(matrices), layers)]


def _copies(results: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The results, copied if they share memory: an operator's outputs may not alias anything."""
    taken = {each.untyped_storage().data_ptr() for each in inputs}
    fresh = []
    for each in results:
        pointer = each.untyped_storage().data_ptr()
        fresh.append(each.detach().clone() if pointer in taken else each.detach().contiguous())
        taken.add(pointer)
    return fresh


@torch.library.register_fake(learn_row)
def _fake(given: list[Tensor], age: Tensor, start: Tensor, *rule: Any) -> list[Tensor]:
    matrices, _ = split_recent(given[_TOKENS:], Rule(*rule))
    shapes = [given[2].shape, *(each.shape for each in given[_TOKENS + len(matrices) // 4 :])]
    return [given[0].new_empty(shape) for shape in shapes]


@torch.library.register_fake(learn_row_backward)
def _backward_fake(grads: list[Tensor], given: list[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in given]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given, age, start, *ctx.rule = inputs
    ctx.save_for_backward(*given, age, start)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    *given, age, start = ctx.saved_tensors
    found = learn_row_backward(list(grads), given, age, start, *ctx.rule)
    return found, None, None, *(None for _ in ctx.rule)


def _entry(x: Any, dim: Any, i: int) -> Any:
    """Entry `i` of an argument that torch.vmap maps over."""
    if isinstance(x, (list, tuple)):
        return [_entry(each, at, i) for each, at in zip(x, dim, strict=True)]
    return x if dim is None else x.select(dim, i)


def _vmap(op: Any, info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
    """Compute mapped examples one by one: their weights may differ."""
    results = [
        op(*(_entry(x, dim, i) for x, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = [torch.stack(each) for each in zip(*results, strict=True)]
    return stacked, [0] * len(stacked)


torch.library.register_autograd(learn_row, _backward, setup_context=_setup)
refuse_autograd(learn_row_backward)
torch.library.register_vmap(learn_row, partial(_vmap, learn_row))
torch.library.register_vmap(learn_row_backward, partial(_vmap, learn_row_backward))

# Without this, the matrix products would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(learn_row, _device, torch.float32)
    torch.library.register_autocast(learn_row_backward, _device, torch.float32)
