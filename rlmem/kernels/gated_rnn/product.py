"""The two large matrix products next to the recurrence, as torch.library operators.

They are the projection of the whole row's input and the gradients of the weights. On the CPU they
run in C, with the tiles of the recurrence, for two reasons: the first write to memory takes longer
than the product, so results reuse memory of earlier rows (see `native.py`); and torch's own library
does not use 64-byte vectors on every maker's processors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.bf16_linear import linear
from rlmem.kernels.gated_rnn import tiles
from rlmem.kernels.native import FLOATS, check_tensors
from rlmem.kernels.operator import define_on_cpu, register_kernel


def project(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`, [B, T, I] by [M, I] to [B, T, M]: `torch.nn.functional.linear`, no bias.

    Other shapes [*N, I], other devices than the CPU and autocast are left to torch. Raises
    `ValueError` if an argument has a wrong shape, dtype, layout or device.
    """
    check_tensors("project", {"x": x, "weight": weight}, (*FLOATS, torch.float16))
    autocast = torch.is_autocast_enabled(x.device.type)
    if weight.dim() != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"project: x must be [*N, I] and weight [M, I], not {list(x.shape)} and "
            f"{list(weight.shape)}"
        )
    if x.dtype != weight.dtype and not autocast:
        raise ValueError(f"project: weight must be {x.dtype} like x, not {weight.dtype}")
    if x.dim() != 3 or x.device.type != "cpu" or autocast:
        return linear(x, weight)
    return times(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


@define_on_cpu("project", "(Tensor x, Tensor weight) -> Tensor")
def times(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: [N, I] by [M, I] to [N, M]."""
    return tiles.times(x, weight)


@define_on_cpu("gram", "(Tensor x, Tensor y) -> Tensor")
def gram(x: Tensor, y: Tensor) -> Tensor:
    """`x.T @ y`: [N, I] by [N, M] to [I, M]."""
    return tiles.gram(x, y)


register_kernel(times, "cuda")(F.linear)
register_kernel(gram, "cuda")(lambda x, y: x.t() @ y)


@torch.library.register_fake(times)
def _times_fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.register_fake(gram)
def _gram_fake(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], y.shape[1])


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _times_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    for_x, for_weight = ctx.needs_input_grad
    return times(grad, weight.t()) if for_x else None, gram(x, grad).t() if for_weight else None


def _gram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, y = ctx.saved_tensors
    for_x, for_y = ctx.needs_input_grad
    return times(y, grad) if for_x else None, times(x, grad.t()) if for_y else None


torch.library.register_autograd(times, _times_backward, setup_context=_setup)
torch.library.register_autograd(gram, _gram_backward, setup_context=_setup)


@torch.library.register_vmap(times)
def _times_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor) -> Any:
    if in_dims[1] is not None:
        return _front(x, in_dims[0]) @ _front(weight, in_dims[1]).mT, 0
    folded = times(_front(x, in_dims[0]).flatten(0, 1), weight)
    return folded.unflatten(0, (info.batch_size, -1)), 0


@torch.library.register_vmap(gram)
def _gram_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor) -> Any:
    return _front(x, in_dims[0]).mT @ _front(y, in_dims[1]), 0


def _front(x: Tensor, dim: int | None) -> Tensor:
    return x if dim is None else x.movedim(dim, 0)
