"""Temporal convolutional network (Bai et al. 2018, arXiv 1803.01271): dilated causal convolutions.

Layer i is a residual block of two convolutions with dilation 2^i (section 3.3, figure 1):

    y = relu(r + relu(conv_2(relu(conv_1(x))))),   r = x, or a linear map if the sizes differ

Each layer pads the steps before the episode's start with zeros. The paper's weight normalisation
and dropout are left out. A baseline without recurrence: an output depends on the last
1 + 2 (kernel_size - 1) (2^layers - 1) inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, linear_or_identity, register
from rlmem.cores.window import CausalConv
from rlmem.errors import at_least, positive

Windows = tuple[Tensor, ...]


class Block(nn.Module):
    """One layer: two causal convolutions and a residual path."""

    def __init__(self, input_size: int, output_size: int, size: int, dilation: int) -> None:
        super().__init__()
        self.first = CausalConv(input_size, output_size, size, dilation)
        self.second = CausalConv(output_size, output_size, size, dilation)
        self.skip = linear_or_identity(input_size, output_size)


@register("tcn")
class TCN(MemoryCore[Windows]):
    """TCN: residual blocks of dilated causal convolutions, a baseline (Bai et al. 2018).

    The state holds the windows of all convolutions, two for each of the `layers` layers.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 3,
        kernel_size: int = 3,
    ) -> None:
        super().__init__(input_size, output_size)
        size = at_least("kernel_size", kernel_size, 2)
        widths = [self.input_size] + [self.output_size] * positive("layers", layers)
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], size, 2**i) for i in range(layers)
        )

    def initial_state(self, batch_size: int) -> Windows:
        return tuple(
            self.zeros(batch_size, conv.kept, conv.input_size)
            for block in self._blocks()
            for conv in (block.first, block.second)
        )

    def update(
        self, x: Float[Tensor, "B I"], state: Windows
    ) -> tuple[Float[Tensor, "B O"], Windows]:
        return self._forward(x, state, lambda conv, y, window: conv.step(y, window))

    def scan(
        self, x: Float[Tensor, "B T I"], state: Windows, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Windows]:
        return self._forward(x, state, lambda conv, y, window: conv.scan(y, window, start))

    def _forward(
        self,
        x: Tensor,
        state: Windows,
        convolve: Callable[[CausalConv, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Windows]:
        """The output and the next windows; `convolve` is a convolution's step or scan."""
        windows: list[Tensor] = []
        given: Iterator[Tensor] = iter(state)
        for block in self._blocks():
            y = x
            for conv in (block.first, block.second):
                y, window = convolve(conv, y, next(given))
                y = F.relu(y)
                windows.append(window)
            x = F.relu(block.skip(x) + y)
        return x, tuple(windows)

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]
