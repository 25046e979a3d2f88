"""The short causal convolution: its definition, and the requirements on an operator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rlmem.kernels import native, short_conv
from rlmem.kernels.short_conv import c_form, ops, short_conv_reference, torch_form

Leaves = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(params=["c", "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both forms of the operator on the CPU."""
    if request.param == "torch":
        monkeypatch.setattr(c_form, "supports", lambda x, weight: False)
    return request.param


def leaves(
    rows: int, time: int, channels: int, size: int, dtype: torch.dtype = torch.float64
) -> Leaves:
    shapes = [(rows, time, channels), (channels, size), (channels,), (rows, size - 1, channels)]
    x, weight, bias, window = (torch.randn(s, dtype=dtype).requires_grad_() for s in shapes)
    return x, weight, bias, window


def starts(rows: int, time: int, *at: int) -> Tensor:
    start = torch.zeros(rows, time, dtype=torch.bool)
    start[0, [t for t in at if -time <= t < time]] = True
    return start


def results(
    function: Callable[..., Tensor], inputs: Leaves, start: Tensor, grad: Tensor
) -> list[Tensor]:
    y = function(*inputs, start)
    return [y, *torch.autograd.grad(y, inputs, grad)]


def by_hand(inputs: Leaves, start: Tensor) -> Tensor:
    """The sum of the formula, number by number."""
    x, weight, bias, window = (each.detach() for each in inputs)
    rows, time, _ = x.shape
    size = weight.shape[1]
    y = bias.expand(x.shape).clone()
    for b in range(rows):
        for t in range(time):
            for j in range(size):
                if j > 0 and start[b, max(0, t - j + 1) : t + 1].any():
                    break
                past = x[b, t - j] if t >= j else window[b, size - 1 + t - j]
                y[b, t] += weight[:, size - 1 - j] * past
    return y


AT = [(), (0,), (-1,), (3, 4), (0, 1, 2), (2, 4, 5, 8), tuple(range(9))]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("at", AT, ids=str)
def test_the_definition_equals_the_sum(size: int, at: tuple[int, ...]) -> None:
    for time in (1, 2, 9):
        inputs, start = leaves(2, time, 3, size), starts(2, time, *at)
        torch.testing.assert_close(short_conv_reference(*inputs, start), by_hand(inputs, start))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("channels", [1, 5, 64, 259])
@pytest.mark.parametrize("at", AT, ids=str)
def test_outputs_and_gradients(size: int, channels: int, at: tuple[int, ...]) -> None:
    for time in (1, 2, 3, 9):
        inputs, start = leaves(2, time, channels, size), starts(2, time, *at)
        grad = torch.randn(2, time, channels, dtype=torch.float64)
        want = results(short_conv_reference, inputs, start, grad)
        torch.testing.assert_close(results(short_conv, inputs, start, grad), want)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrower_dtypes_over_many_steps(dtype: torch.dtype) -> None:
    inputs, start = leaves(3, 150, 20, 4, dtype), torch.rand(3, 150) < 0.1
    grad = torch.randn(3, 150, 20).to(dtype)
    wide = tuple(each.detach().double().requires_grad_() for each in inputs)
    want = results(short_conv_reference, wide, start, grad.double())
    got = results(short_conv, inputs, start, grad)
    assert {each.dtype for each in got} == {dtype}
    bound = {torch.float32: 2e-5, torch.bfloat16: 0.05}[dtype]
    for one, other in zip(got, want, strict=True):
        assert (one - other).abs().max() <= bound * other.abs().max()


def test_threads_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SERIAL_BELOW", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for rows, channels in [(1, 300), (5, 70), (40, 3)]:
        inputs, start = leaves(rows, 70, channels, 4), torch.rand(rows, 70) < 0.1
        grad = torch.randn(rows, 70, channels, dtype=torch.float64)
        want = results(short_conv_reference, inputs, start, grad)
        torch.testing.assert_close(results(short_conv, inputs, start, grad), want)


@pytest.mark.usefixtures("form")
def test_any_strides() -> None:
    start = torch.rand(6, 4).t() < 0.3
    x, grad = (torch.randn(6, 4, 10, dtype=torch.float64).transpose(0, 1) for _ in range(2))
    weight, window = (
        torch.randn(3, 10).double().t(),
        torch.randn(2, 10, 4).double().permute(2, 0, 1),
    )
    shared = torch.randn(1, 1, 1).double().expand(4, 6, 10)
    for given, gradient in [(x, grad), (x.flip(2)[..., ::2], grad[..., ::2]), (x, shared)]:
        d = given.shape[-1]
        inputs = (given, weight[:d], torch.randn(d).double(), window[..., :d])
        inputs = tuple(each.detach().requires_grad_() for each in inputs)
        want = results(short_conv_reference, inputs, start, gradient)
        torch.testing.assert_close(results(short_conv, inputs, start, gradient), want)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradcheck(size: int) -> None:
    for time in (2, 5):
        start = starts(2, time, 1, 3)
        inputs = leaves(2, time, 2, size)
        assert gradcheck(lambda *each, s=start: short_conv(*each, s), inputs)
        assert gradgradcheck(lambda *each, s=start: short_conv(*each, s), inputs)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("start_at", [0, 1, 4])
def test_values_before_a_start_are_not_read(poison: float, start_at: int) -> None:
    """Only the episode after the start has a gradient; everything before is NaN or Inf."""
    inputs, start = leaves(2, 8, 3, 4), torch.zeros(2, 8, dtype=torch.bool)
    start[:, start_at] = True
    grad = torch.randn(2, 8, 3, dtype=torch.float64)
    grad[:, :start_at] = 0
    clean = results(short_conv_reference, inputs, start, grad)
    with torch.no_grad():
        inputs[0][:, :start_at] = poison
        inputs[3][:] = poison
    got = results(short_conv, inputs, start, grad)
    torch.testing.assert_close(got[0][:, start_at:], clean[0][:, start_at:])
    torch.testing.assert_close((got[1], got[4]), (clean[1], clean[4]))
    if start_at == 0:
        torch.testing.assert_close(got, clean)


@pytest.mark.usefixtures("form")
def test_no_gradient_crosses_a_start() -> None:
    inputs, start = leaves(1, 6, 2, 4), starts(1, 6, 3)
    grad = torch.ones(1, 6, 2, dtype=torch.float64)
    grad[:, 3:] = torch.nan
    _, grad_x, _, _, grad_window = results(short_conv, inputs, start, grad)
    assert grad_x[:, :3].isfinite().all()
    assert grad_window.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 4])
def test_opcheck(dtype: torch.dtype, size: int) -> None:
    x, weight, bias, window = leaves(2, 5, 3, size, dtype)
    start, grad = torch.rand(2, 5) < 0.3, torch.randn(2, 5, 3).to(dtype).requires_grad_()
    torch.library.opcheck(ops.conv, (x, weight, bias, window, start))
    torch.library.opcheck(ops.conv_backward, (grad, x, weight, window, start))


MAPPED = [(0,), (1,), (2,), (3,), (4,), (0, 3, 4), (0, 1, 2, 3, 4)]


@pytest.mark.parametrize("mapped", MAPPED, ids=str)
@pytest.mark.parametrize("back", [False, True])
def test_vmap(mapped: tuple[int, ...], back: bool) -> None:
    """Over single arguments and several at once, forward and backward."""
    inputs = [each.detach() for each in leaves(2, 5, 3, 4)]
    inputs.append(torch.rand(2, 5) < 0.3)
    if back:  # its arguments are grad_y, x, weight, window, start
        inputs = [torch.randn(2, 5, 3).double(), *inputs[:2], *inputs[3:]]
    for i in mapped:
        shape = (3, *inputs[i].shape)
        inputs[i] = torch.rand(shape) < 0.3 if i == 4 else torch.randn(shape).double()
    function = ops.conv_backward if back else short_conv
    dims = tuple(0 if i in mapped else None for i in range(5))
    got = torch.func.vmap(function, dims)(*inputs)
    each = [function(*(x[i] if k in mapped else x for k, x in enumerate(inputs))) for i in range(3)]
    want = tuple(map(torch.stack, zip(*each, strict=True))) if back else torch.stack(each)
    torch.testing.assert_close(got, want)


def test_compile_in_one_graph() -> None:
    inputs, start = leaves(2, 5, 3, 4), starts(2, 5, 2)
    grad = torch.randn(2, 5, 3, dtype=torch.float64)
    compiled = torch.compile(lambda *each: short_conv(*each), backend="aot_eager", fullgraph=True)
    want = results(short_conv_reference, inputs, start, grad)
    torch.testing.assert_close(results(compiled, inputs, start, grad), want)


X, WEIGHT, BIAS, WINDOW = (each.detach() for each in leaves(2, 5, 3, 4))
START = starts(2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], WEIGHT, BIAS, WINDOW, START), r"x must be \[B, T, D\], .* not \[5, 3\]"),
        ((X[:, :0], WEIGHT, BIAS, WINDOW, START), r"each at least 1, not \[2, 0, 3\]"),
        ((X, WEIGHT[:2], BIAS, WINDOW, START), r"weight must be \[3, W\], not \[2, 4\]"),
        ((X, WEIGHT, BIAS[:2], WINDOW, START), r"bias must be \[3\], not \[2\]"),
        ((X, WEIGHT, BIAS, WINDOW[:, :2], START), r"window must be \[2, 3, 3\], not \[2, 2, 3\]"),
        ((X, WEIGHT, BIAS, WINDOW, START[:1]), r"start must be \[2, 5\], not \[1, 5\]"),
        ((X, WEIGHT, BIAS, WINDOW, START.int()), r"start must be torch.bool, not torch.int32"),
        ((X.long(), WEIGHT, BIAS, WINDOW, START), r"x is torch.int64; allowed are"),
        ((X.to("meta"), WEIGHT, BIAS, WINDOW, START), r"on one device, not .*'x': 'meta'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short_conv(*arguments)


HIDDEN = """
import sys
sys.modules["rlmem.kernels._c"] = None  # importing it is an ImportError, as if it were not there
import torch
from rlmem.kernels import native, short_conv
from rlmem.kernels.short_conv import short_conv_reference
assert not native.AVAILABLE
leaves = [torch.randn(s, requires_grad=True) for s in [(2, 9, 3), (3, 4), (3,), (2, 3, 3)]]
start, found = torch.rand(2, 9) < 0.3, []
for conv in (short_conv, short_conv_reference):
    y = conv(*leaves, start)
    found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
torch.testing.assert_close(*found)
"""


def test_works_without_the_c_module() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_c_module_is_built_and_used() -> None:
    assert native.AVAILABLE, "python setup.py build_ext --inplace builds it"
    assert c_form.supports(X, WEIGHT)
    assert not c_form.supports(X, torch.randn(3, 5))
    assert torch_form.forward(X, WEIGHT, BIAS, WINDOW, START).is_contiguous()
