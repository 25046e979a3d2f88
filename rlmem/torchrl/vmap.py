"""Functions on batches of rows under `torch.vmap`: mapped batches run as more rows.

torchrl's advantages map the value network over two batches at once (`GAE` by default). vmap cannot
map control flow that depends on data, such as the cutting of rows, nor kernels without a vmap rule.
Rows are independent, so the mapped batches are concatenated. If the parameters are mapped as well,
the batches run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class CoreCall(nn.Module):
    """`run(core, *rows)` as a module for `functional_call`; `named` are the core's tensors."""

    def __init__(self, core: nn.Module, run: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.core = core
        self.run = run
        self.named = {
            f"core.{prefix}{'.' if prefix else ''}{name}": tensor
            for prefix, module in core.named_modules()
            # tensordict stores mapped parameters in the module's `__dict__`, unseen by torch.
            for name, tensor in {**module._parameters, **module._buffers, **vars(module)}.items()
            if isinstance(tensor, Tensor)
        }

    def forward(self, *rows: Tensor) -> tuple[Tensor, ...]:
        return self.run(self.core, *rows)

    def with_tensors(self, own: Iterable[Tensor], rows: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """The result with the parameters and buffers `own` in place of the core's."""
        return functional_call(self, dict(zip(self.named, own, strict=True)), tuple(rows))


class VmapAsRows(torch.autograd.Function):
    """Only a vmap rule: applied only if some tensor is mapped."""

    @staticmethod
    def forward(call: CoreCall, *tensors: Tensor) -> Any:
        raise NotImplementedError("no tensor is mapped")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, call: CoreCall, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], int]:
        size, own = info.batch_size, len(call.named)
        front = [
            tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        if all(dim is None for dim in in_dims[1 : 1 + own]):
            outputs = call.with_tensors(tensors[:own], (x.flatten(0, 1) for x in front[own:]))
            return tuple(y.unflatten(0, (size, -1)) for y in outputs), 0
        each = [
            call.with_tensors((x[i] for x in front[:own]), (x[i] for x in front[own:]))
            for i in range(size)
        ]
        return tuple(torch.stack(ys) for ys in zip(*each, strict=True)), 0


def run_under_vmap(
    run: Callable[..., tuple[Tensor, ...]], core: nn.Module, *rows: Tensor
) -> tuple[Tensor, ...]:
    """`run(core, *rows)`, also under `torch.vmap`; inputs and outputs are tensors [B, ...]."""
    if not torch._C._are_functorch_transforms_active():
        return run(core, *rows)
    call = CoreCall(core, run)
    tensors = (*call.named.values(), *rows)
    if not any(map(torch._C._functorch.is_batchedtensor, tensors)):
        return run(core, *rows)
    return VmapAsRows.apply(call, *tensors)
