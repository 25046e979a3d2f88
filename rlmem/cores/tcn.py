"""Temporal convolutional network (Bai et al. 2018, arXiv 1803.01271): dilated causal convolutions.

Layer i is a residual block of two convolutions with dilation 2^i (section 3.3, figure 1):

    y = relu(r + relu(conv_2(relu(conv_1(x))))),   r = x, or a linear map if the sizes differ

Each layer pads the steps before the episode's start with zeros. The paper's weight normalisation
and dropout are left out. A baseline without recurrence: an output depends on the last
1 + 2 (kernel_size - 1) (2^layers - 1) inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from rlmem.cores.base import linear_or_identity, register
from rlmem.cores.window import CausalConv, ConvBlock, ConvNet
from rlmem.errors import at_least, positive


class Block(ConvBlock):
    """One layer: two causal convolutions and a residual path."""

    def __init__(self, input_size: int, output_size: int, size: int, dilation: int) -> None:
        super().__init__()
        self.first = CausalConv(input_size, output_size, size, dilation)
        self.second = CausalConv(output_size, output_size, size, dilation)
        self.skip = linear_or_identity(input_size, output_size)

    def parts(self) -> Iterable[tuple[CausalConv, Callable[[Tensor], Tensor]]]:
        return ((conv, _same) for conv in (self.first, self.second))


def _same(x: Tensor) -> Tensor:
    return x


@register("tcn")
class TCN(ConvNet):
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
