"""The two large matrix products next to the recurrence, as torch.library operators.

They are the projection of the whole row's input and the gradients of the weights. On the CPU they
run in C, with the tiles of the recurrence, for two reasons: the first write to memory takes longer
than the product, so results reuse memory of earlier rows (see `native.py`); and torch's own library
does not use 64-byte vectors on every maker's processors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.gated_rnn import tiles

_define = partial(torch.library.custom_op, mutates_args=(), device_types="cpu")


def project(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`, [B, T, I] by [M, I] to [B, T, M]: `torch.nn.functional.linear`, no bias.

    Other shapes, other devices than the CPU and autocast are left to torch.
    """
    device = x.device.type
    row = x.dim() == 3 and x.dtype == weight.dtype
    if not row or device != "cpu" or torch.is_autocast_enabled(device):
        return F.linear(x, weight)
    return times(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


@_define("rlmem::project", schema="(Tensor x, Tensor weight) -> Tensor")
def times(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: [N, I] by [M, I] to [N, M]."""
    return tiles.times(x, weight)


@_define("rlmem::gram", schema="(Tensor x, Tensor y) -> Tensor")
def gram(x: Tensor, y: Tensor) -> Tensor:
    """`x.T @ y`: [N, I] by [N, M] to [I, M]."""
    return tiles.gram(x, y)


times.register_kernel("cuda")(F.linear)
gram.register_kernel("cuda")(lambda x, y: x.t() @ y)


@times.register_fake
def _times_fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@gram.register_fake
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


times.register_autograd(_times_backward, setup_context=_setup)
gram.register_autograd(_gram_backward, setup_context=_setup)


@times.register_vmap
def _times_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor) -> Any:
    if in_dims[1] is not None:
        return _front(x, in_dims[0]) @ _front(weight, in_dims[1]).mT, 0
    folded = times(_front(x, in_dims[0]).flatten(0, 1), weight)
    return folded.unflatten(0, (info.batch_size, -1)), 0


@gram.register_vmap
def _gram_vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor) -> Any:
    return _front(x, in_dims[0]).mT @ _front(y, in_dims[1]), 0


def _front(x: Tensor, dim: int | None) -> Tensor:
    return x if dim is None else x.movedim(dim, 0)
