"""The layer with products of bfloat16: its definition, and torch's operations everywhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import Linear, linear, linear_norm
from rlmem.kernels.bf16_linear import c_form, layer_reference

needs_c = pytest.mark.skipif(not c_form.AVAILABLE, reason="no AVX512-BF16, or the C was not built")
bf16 = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def leaves(*shape: int, outputs: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = [shape, (outputs, shape[-1]), *[(outputs,)] * 3]
    return [torch.randn(each, dtype=dtype).requires_grad_() for each in shapes]


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape).sin()
    return [y, *torch.autograd.grad((y * weights).sum(), inputs)]


SHAPES = [((1, 1), 9), ((3, 7, 5), 33), ((97, 33), 65), ((2, 120, 96), 130), ((500, 8), 8)]


@needs_c
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_c_equals_the_definition(shape: tuple[int, ...], outputs: int) -> None:
    x, weight, bias, *_ = inputs = leaves(*shape, outputs=outputs)
    with bf16:
        plain, normal = linear(x, weight, bias), linear_norm(*inputs, slope=0.01, eps=1e-4)
    want = layer_reference(x, weight, bias, norm=False)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(gradients(plain, inputs[:3]), gradients(want, inputs[:3]), **close)
    want = layer_reference(*inputs, slope=0.01, eps=1e-4)
    # The rounding of the gradient of a sum may differ in its last bit, which is 1 / 256 of it.
    for got, exact in zip(gradients(normal, inputs), gradients(want, inputs), strict=True):
        error = (got - exact).norm() / exact.norm().clamp(min=1e-6)
        assert error < 2e-4


@needs_c
def test_results_are_near_those_in_float64() -> None:
    wide = leaves(200, 64, outputs=48, dtype=torch.float64)
    narrow = [each.detach().float().requires_grad_() for each in wide]
    with bf16:
        got = gradients(linear_norm(*narrow, slope=0.0), narrow)
    for one, other in zip(got, gradients(linear_norm(*wide, slope=0.0), wide), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


@needs_c
def test_vectors_may_be_missing_and_gradients_unwanted() -> None:
    x, weight, *_ = leaves(10, 6, outputs=12)
    with bf16:
        y = linear_norm(x.detach(), weight)
        (grad,) = torch.autograd.grad(y.square().sum() + y[0, 0], weight)
        again = linear(x, weight.detach())
    want = layer_reference(x.detach(), weight)
    (other,) = torch.autograd.grad(want.square().sum() + want[0, 0], weight)
    torch.testing.assert_close([y, grad], [want, other], rtol=1e-3, atol=1e-4)
    assert torch.autograd.grad(again.sum(), x)[0].shape == x.shape


@needs_c
def test_strides_negative_views_and_bfloat16_inputs_are_read() -> None:
    x, weight, bias, *_ = (each.detach() for each in leaves(20, 6, outputs=12))
    want = layer_reference(x, weight, bias, norm=False)
    negative = torch.complex(x, -x).conj().imag
    assert negative.is_neg()
    with bf16:
        for given in (x.t().contiguous().t(), negative, x.bfloat16()):
            torch.testing.assert_close(linear(given, weight, bias), want, rtol=1e-5, atol=1e-5)
        strided = weight.t().contiguous().t()
        torch.testing.assert_close(linear(x, strided, bias), want, rtol=1e-5, atol=1e-5)


@needs_c
def test_a_nan_stays_in_its_row() -> None:
    x, *others = (each.detach() for each in leaves(7, 6, outputs=12))
    x[3, 2] = torch.nan
    with bf16:
        for y in (linear(x, *others[:2]), linear_norm(x, *others)):
            assert y[3].isnan().all()
            assert y[[0, 1, 2, 4, 5, 6]].isfinite().all()


def test_without_autocast_it_is_torchs_layer() -> None:
    inputs = leaves(3, 4, 6, outputs=12)
    x, weight, bias, scale, shift = inputs
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    norm = F.layer_norm(F.linear(x, weight, bias), (12,), scale, shift, 1e-5)
    assert torch.equal(linear_norm(*inputs), norm)
    assert torch.equal(linear_norm(*inputs, slope=0.1), F.leaky_relu(norm, 0.1))
    module = Linear(6, 12)
    assert torch.equal(module(x), F.linear(x, module.weight, module.bias))


def test_other_dtypes_transforms_and_compilers_get_torchs_operations() -> None:
    x, weight, bias, *_ = (each.detach() for each in leaves(5, 6, outputs=12))
    want = F.linear(x, weight, bias)
    with torch.autocast("cpu", torch.float16):
        assert linear(x, weight, bias).dtype == torch.float16
    with bf16:
        assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
        mapped = torch.vmap(lambda row: linear(row, weight, bias))(x)
        program = torch.export.export(Linear(6, 12), (x,))
    torch.testing.assert_close(mapped.float(), want, rtol=2e-2, atol=2e-2)
    assert "linear" in str(program.graph)
    assert "Layer" not in str(program.graph)


def test_layers_that_do_not_fit_raise_torchs_errors() -> None:
    x, weight, bias, *_ = leaves(5, 6, outputs=12)
    with bf16:
        for given in ((x[:, 1:], weight, bias), (x, weight, bias[1:]), (x, weight[0], bias)):
            with pytest.raises(RuntimeError):
                linear(*given)


def test_without_c_autocast_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_form, "AVAILABLE", False)
    inputs = leaves(5, 6, outputs=12)
    with bf16:
        y = linear_norm(*inputs)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), linear_norm(*inputs), rtol=5e-2, atol=5e-2)
