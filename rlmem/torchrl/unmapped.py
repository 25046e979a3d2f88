"""Functions on rows under `torch.vmap`, which runs them on more rows instead of mapping them.

torchrl's advantages map the value network over two batches at once (`GAE` by default). What looks
at its data to decide what to do, as the cutting of rows does, cannot be mapped, nor can kernels
without a rule for it. Rows are independent, so the mapped batches are laid end to end; only where
the parameters are mapped as well, each batch is run by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Call(nn.Module):
    """`run(core, *tensors)` as a module, for `functional_call`; `names` are those of `core`."""

    def __init__(self, core: nn.Module, run: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.core = core
        self.run = run
        self.named = {
            f"core.{prefix}{'.' if prefix else ''}{name}": tensor
            for prefix, module in core.named_modules()
            # tensordict leaves mapped parameters where torch does not look for them.
            for name, tensor in {**module._parameters, **module._buffers, **vars(module)}.items()
            if isinstance(tensor, Tensor)
        }

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.run(self.core, *tensors)

    def given(self, own: Iterable[Tensor], rows: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """The result with `own` parameters and buffers."""
        return functional_call(self, dict(zip(self.named, own, strict=True)), tuple(rows))


class Unmapped(torch.autograd.Function):
    """The rule of `vmap` alone: it is applied only where tensors are mapped."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Any:
        raise NotImplementedError("no tensor is mapped")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, call: Call, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], int]:
        size, own = info.batch_size, len(call.named)
        front = [
            tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        if all(dim is None for dim in in_dims[1 : 1 + own]):
            outputs = call.given(tensors[:own], (part.flatten(0, 1) for part in front[own:]))
            return tuple(part.unflatten(0, (size, -1)) for part in outputs), 0
        each = [
            call.given((part[i] for part in front[:own]), (part[i] for part in front[own:]))
            for i in range(size)
        ]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), 0


def unmapped(
    run: Callable[..., tuple[Tensor, ...]], core: nn.Module, *rows: Tensor
) -> tuple[Tensor, ...]:
    """`run(core, *rows)`; what it takes and gives are tensors [B, ...] of rows."""
    if not torch._C._are_functorch_transforms_active():
        return run(core, *rows)
    call = Call(core, run)
    tensors = (*call.named.values(), *rows)
    if not any(map(torch._C._functorch.is_batchedtensor, tensors)):
        return run(core, *rows)
    return Unmapped.apply(call, *tensors)
