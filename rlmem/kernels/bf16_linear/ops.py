"""The layer with its gradients, for autograd; torch's operations wherever the C form is not.

This is no operator of torch.library: its way through torch's dispatcher and back would take longer
than a small layer. Compilers, exports and functorch's transforms see torch's operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rlmem.kernels.bf16_linear import c_form
from rlmem.kernels.bf16_linear.c_form import Layer

# Products with fewer outputs are in float32: they would not be faster.
FEWEST_OUTPUTS = 8
_PLAIN = Layer(False, 1.0, 0.0)


class Linear(nn.Linear):
    """`torch.nn.Linear`; under autocast to bfloat16 on the CPU it keeps float32 tensors.

    There it is faster than torch's, which converts tensors in separate passes over memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`: [*N, I] by [M, I] to [*N, M], as `torch.nn.functional.linear`.

    Under autocast to bfloat16 on a CPU with AVX512-BF16, arguments and results are float32: they
    are rounded for the product only, and its sums are float32. Differentiable once there.
    """
    if not _in_c(x, weight, (bias,)):
        return F.linear(x, weight, bias)
    if weight.shape[0] < FEWEST_OUTPUTS:
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.float(), weight, bias)
    return _Layer.apply(_PLAIN, x.float(), weight, bias, None, None)


def linear_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """`leaky_relu(layer_norm(x @ weight.T + bias) * scale + shift)`.

    `x` is [*N, I], `weight` [M, I], the others [M]. A `slope` of 1 is no activation, 0 a ReLU. One
    pass over memory under the conditions of `linear`, otherwise torch's operations.
    """
    if _in_c(x, weight, (bias, scale, shift)):
        return _Layer.apply(Layer(True, slope, eps), x.float(), weight, bias, scale, shift)
    y = F.layer_norm(F.linear(x, weight, bias), weight.shape[:1], scale, shift, eps)
    return y if slope == 1 else F.leaky_relu(y, slope)


def _in_c(x: Tensor, weight: Tensor, vectors: tuple[Tensor | None, ...]) -> bool:
    """Whether C computes a layer; arguments that do not fit are left to torch's errors."""
    if not torch.is_autocast_enabled("cpu") or not c_form.AVAILABLE:
        return False
    return (
        not torch.compiler.is_compiling()
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.device.type == "cpu"
        and weight.dim() == 2
        and x.shape[-1:] == weight.shape[1:]
        and x.numel() > 0
        and weight.shape[0] > 0
        and _is_plain(weight)
        and all(v is None or (_is_plain(v) and v.shape == weight.shape[:1]) for v in vectors)
        and not torch._C._are_functorch_transforms_active()
    )


def _is_plain(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu" and x.layout is torch.strided


def _ready(x: Tensor) -> Tensor:
    """`x` as C reads it."""
    return x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: Layer,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        x, weight = _ready(x), _ready(weight)
        bias, scale, shift = (
            None if each is None else _ready(each) for each in (bias, scale, shift)
        )
        save = any(ctx.needs_input_grad)
        y, normal, inverse = c_form.forward(layer, x, weight, bias, scale, shift, save)
        ctx.layer = layer
        ctx.save_for_backward(x, weight, scale, shift, normal, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        for_x, for_weight, vectors = c_form.backward(
            ctx.layer, wanted[1], _ready(grads[0]), *ctx.saved_tensors
        )
        found = [vectors[i] if want else None for i, want in enumerate(wanted[3:])]
        return None, for_x, for_weight if wanted[2] else None, *found
