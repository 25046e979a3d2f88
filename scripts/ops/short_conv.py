"""The short convolution: its definition under autograd, and torch's grouped convolution.

"conv1d" is `torch.nn.functional.conv1d` on channels first, which knows no starts; "causal-conv1d"
is the installed package of that name. There is a start every fifty steps on average, on CUDA none.
Bytes: x and y once, forward; three times that forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import short_conv
from rlmem.kernels.short_conv import short_conv_reference

from .base import Case, Form, Inputs, Op, Work

SIZE = 4  # steps of the filter
EPISODE = 50  # steps between starts, on average


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """The convolution of torch, on rows without starts."""
    row = torch.cat([window, x], dim=1).mT
    return F.conv1d(row, weight[:, None], bias, groups=x.shape[2]).mT


def third_parties() -> Iterator[tuple[str, Form]]:
    """Installed third-party forms; they do not support starts within a row."""
    if find_spec("causal_conv1d"):
        from causal_conv1d import causal_conv1d_fn  # type: ignore[import-not-found]

        def causal(
            x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor
        ) -> Tensor:
            row = torch.cat([window, x], dim=1).mT
            y: Tensor = causal_conv1d_fn(row, weight, bias).mT
            return y[:, window.shape[1] :]

        yield "causal-conv1d", causal


class ShortConv(Op):
    name = "short_conv"
    axes = "BxTxD"
    shapes = ((64, 128, 128), (64, 512, 256), (16, 4096, 128))
    quick = ((64, 128, 128),)
    gpu_shapes = (
        (1024, 128, 128),
        (16, 4096, 256),
        (256, 64, 64),
        (4096, 128, 256),
        (16, 65536, 128),
    )
    tiny = (3, 40, 8)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", short_conv
        yield "reference", short_conv_reference
        if device == "cuda":
            yield "conv1d", conv1d
            yield from third_parties()

    def leading(self, case: Case) -> tuple[str, ...]:
        return "BT", "", "", "B", "BT"

    def definition(self, case: Case, form: str) -> Form:
        return short_conv_reference

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, channels = case.shape
        x, grad = torch.randn(2, *case.shape, device=device)
        weight = torch.randn(channels, SIZE, device=device) / SIZE**0.5
        bias = torch.randn(channels, device=device)
        window = torch.randn(rows, SIZE - 1, channels, device=device)
        # Forms of others do not support starts: on CUDA, where they take part, there are none.
        often = 0.0 if device == "cuda" else 1 / EPISODE
        start = torch.rand(rows, time, device=device) < often
        return Inputs((x.clone(), weight, bias, window, start), grad)

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        return Work(elements, 2 * case.itemsize * elements * times, 2 * SIZE * elements * times)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.short_conv import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        launch(dtype, 128, SIZE)
        if odd:
            launch(dtype, 67, SIZE)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        return tensors["x"].dtype, {
            "d": tensors["x"].shape[-1],
            "steps": options["STEPS"],
            "channels": options["CHANNELS"],
            "warps": options["num_warps"],
        }


def launch(dtype: torch.dtype, channels: int, size: int) -> None:
    """Forward and backward."""
    from rlmem.kernels.short_conv import triton_form

    x, grad = torch.empty(2, 3, 70, channels, dtype=dtype)
    weight, bias = torch.empty(channels, size, dtype=dtype), torch.empty(channels, dtype=dtype)
    window = torch.empty(3, size - 1, channels, dtype=dtype)
    start = torch.empty(3, 70, dtype=torch.bool)
    triton_form.forward(x, weight, bias, window, start)
    triton_form.backward(grad, x, weight, window, start)


OP = ShortConv()
