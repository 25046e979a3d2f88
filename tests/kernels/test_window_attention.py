"""Attention over a sliding window: its definition, and the requirements on an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rlmem.kernels import window_attention
from rlmem.kernels.window_attention import ops, segments, torch_form, window_attention_reference

Given = tuple[Any, ...]


def given(
    time: int,
    past: int,
    relative: bool,
    dtype: torch.dtype = torch.float64,
    rows: int = 2,
    heads: int = 2,
    size: int = 3,
) -> Given:
    """Arguments with adjacent starts, starts at block borders, and a half-filled memory."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    query, key = randn(rows, time, heads, size), randn(rows, past + time, heads, size)
    value = randn(rows, past + time, heads, size + 1)
    alive = torch.arange(past) >= past // 2 * torch.arange(rows)[:, None]
    start = torch.zeros(rows, time, dtype=torch.bool)
    for at in (3, 4, torch_form.BLOCK, torch_form.BLOCK + 1, time - 1):
        if at < time:
            start[1, at] = True
    places = (randn(rows, time, heads, size), randn(past + 1, heads, size)) if relative else ()
    return query, key, value, alive, start, *places


def leaves(arguments: Given) -> list[Tensor]:
    return [each for each in arguments if each.is_floating_point()]


def results(function: Any, arguments: Given, grad: Tensor) -> list[Tensor]:
    y = function(*arguments)
    return [y, *torch.autograd.grad(y, leaves(arguments), grad)]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("past", [0, 1, 7, torch_form.BLOCK, 80])
@pytest.mark.parametrize(
    "time", [1, 2, torch_form.BLOCK, torch_form.BLOCK + 1, 3 * torch_form.BLOCK - 1]
)
def test_outputs_and_gradients(time: int, past: int, relative: bool) -> None:
    arguments = given(time, past, relative)
    grad = torch.randn(2, time, 2, 4, dtype=torch.float64)
    want = results(window_attention_reference, arguments, grad)
    torch.testing.assert_close(results(window_attention, arguments, grad), want)


def test_one_position_by_hand() -> None:
    query, key, value, alive, start, at, relative = given(4, 2, relative=True)
    start[:] = False
    start[0, 2] = True
    y = window_attention(query, key, value, alive, start, at, relative)
    # Position 3 of row 0 sees the start and itself; the first 2 keys are those of the memory.
    scores = [
        (query[0, 3, 0] @ key[0, 2 + j, 0] + at[0, 3, 0] @ relative[3 - j, 0]) / 3**0.5
        for j in (2, 3)
    ]
    weights = torch.stack(scores).softmax(0)
    torch.testing.assert_close(y[0, 3, 0], weights @ value[0, 4:6, 0])


@pytest.mark.parametrize("relative", [True, False])
def test_gradcheck(relative: bool) -> None:
    arguments = given(6, 3, relative, size=2)
    assert gradcheck(window_attention, arguments)


def test_narrower_dtypes_over_many_steps() -> None:
    for dtype, bound in ((torch.float32, 2e-5), (torch.bfloat16, 0.05)):
        arguments = given(150, 20, True, dtype)
        wide = tuple(
            each.detach().double().requires_grad_() if each.is_floating_point() else each
            for each in arguments
        )
        grad = torch.randn(2, 150, 2, 4).to(dtype)
        want = results(window_attention_reference, wide, grad.double())
        got = results(window_attention, arguments, grad)
        assert {each.dtype for each in got} == {dtype}
        for one, other in zip(got, want, strict=True):
            assert (one - other).abs().max() <= bound * other.abs().max()


def test_values_before_a_start_have_exactly_no_effect() -> None:
    arguments = given(torch_form.BLOCK + 9, 12, relative=True)
    query, key, value, _, start, *_ = arguments
    begin = torch_form.BLOCK - 3
    start[:, begin] = True
    y = window_attention(*arguments)[:, begin:]
    grads = torch.autograd.grad(y.square().sum(), (query, key, value))
    assert not grads[0][:, :begin].any()
    assert not grads[1][:, : 12 + begin].any()
    assert not grads[2][:, : 12 + begin].any()
    with torch.no_grad():
        key[:, : 12 + begin] += 1e3
        value[:, : 12 + begin] -= 1e3
        assert torch.equal(window_attention(*arguments)[:, begin:], y)


def test_extreme_scores_stay_finite() -> None:
    arguments = given(70, 16, relative=True, dtype=torch.float32)
    with torch.no_grad():
        arguments[0].mul_(1e4)
    grad = torch.ones(2, 70, 2, 4)
    assert all(each.isfinite().all() for each in results(window_attention, arguments, grad))


@pytest.mark.parametrize("relative", [True, False])
def test_opcheck(relative: bool) -> None:
    query, key, value, alive, start, *places = given(5, 3, relative)
    at, distances = places or (query.new_empty(0), query.new_empty(0))
    inputs = (query, key, value, at, distances, segments(alive, start))
    torch.library.opcheck(ops.attend, inputs)
    with torch.no_grad():
        y, log_sum = ops.attend(*inputs)
    fixed = [each.detach() for each in inputs]
    torch.library.opcheck(ops.attend_backward, (torch.randn_like(y), y, log_sum, *fixed))


def test_scores_are_not_saved() -> None:
    held: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    sizes = []
    for time in (128, 256):
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            window_attention(*given(time, 64, relative=True))
        sizes.append(sum(held))
    assert sizes[1] < 2 * sizes[0]


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (0, torch.zeros(2, 4, 3), r"query must be \[B, T, H, D\]"),
        (0, torch.zeros(2, 0, 2, 3), "each at least 1"),
        (1, torch.zeros(2, 4, 2, 3), r"key must be \[2, 7, 2, 3\], not \[2, 4, 2, 3\]"),
        (2, torch.zeros(2, 7, 1, 4), r"value must be \[2, 7, 2, 4\]"),
        (3, torch.zeros(3, 3, dtype=torch.bool), r"alive must be \[2, M\]"),
        (3, torch.zeros(2, 3), "alive must be torch.bool"),
        (4, torch.zeros(2, 5, dtype=torch.bool), r"start must be \[2, 4\]"),
        (4, torch.zeros(2, 4, dtype=torch.int64), "start must be torch.bool"),
        (5, torch.zeros(2, 3, 2, 3), r"position_query must be \[2, 4, 2, 3\]"),
        (6, torch.zeros(3, 2, 3), r"relative must be \[4, 2, 3\]"),
        (6, None, "must be given together"),
        (1, torch.zeros(2, 7, 2, 3, dtype=torch.int64), "key is torch.int64"),
        (1, torch.zeros(2, 7, 2, 3, device="meta"), "one device"),
    ],
)
def test_bad_arguments_raise_an_error(index: int, wrong: Tensor | None, message: str) -> None:
    arguments = list(given(4, 3, relative=True))
    arguments[index] = wrong
    with pytest.raises(ValueError, match=message):
        window_attention(*arguments)


def test_autocast_has_no_effect() -> None:
    arguments = given(40, 8, relative=True, dtype=torch.float32)
    grad = torch.randn(2, 40, 2, 4)
    want = results(window_attention, arguments, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(window_attention, arguments, grad)
    torch.testing.assert_close(got, want)
