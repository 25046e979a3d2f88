"""Continuous kernel convolution (Romero et al. 2021, arXiv 2102.02611): a network makes the kernel.

A convolution over the last K steps, whose kernel is a small network of the relative time s_j, from
-1 for this step to 1 for the oldest (section 4; sines as in SIREN, Sitzmann et al. 2020):

    k(s) = W_3 sin(omega (W_2 sin(omega (W_1 s + b_1)) + b_2)) + b_3
    (k * x)[t] = sum_{j < K} k(s_j) x[t - j],    zero before the episode's start

The number of parameters does not depend on K. A block is that of the paper, with layer norms:

    y = relu(r + relu(LN(conv_2(relu(LN(conv_1(x)))))))    r = x, or a linear map if sizes differ

The paper's k(s) is a matrix of all input and output channels. Here, by default, it is one number
for each channel and a matrix after the convolution mixes channels (`separable`), as in the authors'
later networks (arXiv 2206.03398), which is much faster. k is divided by the square root of the
number of terms in an output, so that outputs begin with the scale of their inputs. Dropout and
weight normalisation are left out. A baseline without recurrence: an output depends on the last
1 + 2 layers (K - 1) inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import linear_or_identity, register
from rlmem.cores.conv import next_window
from rlmem.cores.window import ConvBlock, ConvNet, scan_taps, step_taps
from rlmem.errors import UsageError, at_least, positive
from rlmem.kernels import Linear, short_conv


class KernelNet(nn.Module):
    """The kernel [K, outputs] as a network of the relative time; the last row is for delay 0."""

    _times: Tensor

    def __init__(self, size: int, outputs: int, hidden: int, omega: float, terms: int) -> None:
        super().__init__()
        if not omega > 0:
            raise UsageError(f"omega must be positive, not {omega}")
        self.omega, self.scale = omega, terms**-0.5
        self.first = nn.Linear(1, positive("hidden", hidden))
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)
        # Arguments of the sines spread over some periods, and the kernel's numbers are of size 1.
        nn.init.uniform_(self.first.weight, -1.0, 1.0)
        nn.init.uniform_(self.first.bias, -1.0, 1.0)
        bound = math.sqrt(6 / hidden)
        nn.init.uniform_(self.second.weight, -bound / omega, bound / omega)
        nn.init.uniform_(self.last.weight, -bound, bound)
        times = torch.linspace(1.0, -1.0, size, dtype=torch.float64)
        self.register_buffer("_times", times[:, None], persistent=False)

    def forward(self) -> Float[Tensor, "K N"]:
        # Rounded to half precision, the argument of a sine would be far off.
        with torch.autocast(self._times.device.type, enabled=False):
            s = self.first(self._times.to(self.first.weight.dtype))
            h = torch.sin(self.omega * self.second(torch.sin(self.omega * s)))
            return self.scale * self.last(h)


class ContinuousConv(nn.Module):
    """The convolution; its window [B, K-1, I] holds the last inputs, oldest first."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        size: int,
        hidden: int,
        omega: float,
        separable: bool,
    ) -> None:
        super().__init__()
        self.input_size, self.kept, self.separable = input_size, size - 1, separable
        outputs, terms = input_size, size
        if not separable:
            outputs, terms = input_size * output_size, size * input_size
        self.kernel = KernelNet(size, outputs, hidden, omega, terms)
        self.bias = nn.Parameter(torch.zeros(input_size if separable else output_size))
        self.mix = Linear(input_size, output_size, bias=False) if separable else None

    def step(
        self, x: Float[Tensor, "B I"], window: Float[Tensor, "B V I"]
    ) -> tuple[Float[Tensor, "B O"], Float[Tensor, "B V I"]]:
        """The output of one step, and the next window."""
        taps, window = step_taps(x, window)
        if self.mix is None:
            return F.linear(taps, self._matrix(), self.bias), window
        y = (taps.unflatten(1, (-1, self.input_size)) * self.kernel()).sum(1)
        return self.mix(y + self.bias), window

    def scan(
        self, x: Float[Tensor, "B T I"], window: Float[Tensor, "B V I"], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Float[Tensor, "B V I"]]:
        """The outputs of a row, and the next window. Inputs before a start are never read."""
        if self.mix is None:
            taps, window = scan_taps(x, window, start)
            return F.linear(taps, self._matrix(), self.bias), window
        x = x.to(window.dtype)
        y = short_conv(x, self.kernel().t(), self.bias, window, start)
        return self.mix(y), next_window(x, window, start)

    def _matrix(self) -> Float[Tensor, "O KI"]:
        """The kernel of all channels, for the inputs of a step as one vector."""
        return self.kernel().unflatten(1, (-1, self.input_size)).transpose(0, 1).flatten(1)


class Block(ConvBlock):
    """Two convolutions, each with a layer norm, and a residual path."""

    def __init__(self, input_size: int, output_size: int, make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([make(input_size), make(output_size)])
        self.norms = nn.ModuleList(nn.LayerNorm(output_size) for _ in range(2))
        self.skip = linear_or_identity(input_size, output_size)

    def parts(self) -> Iterable[tuple[ContinuousConv, nn.Module]]:
        return zip(self.convs, self.norms, strict=True)  # type: ignore[arg-type]


@register("ckconv")
class CKConv(ConvNet):
    """CKConv: convolutions whose kernels are networks of time, a baseline (Romero et al. 2021).

    The state holds the windows of all convolutions, two for each of the `layers` blocks. A window
    has `kernel_size` steps, `hidden` units make a kernel, and `omega` is its initial highest
    frequency.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 2,
        kernel_size: int = 32,
        hidden: int = 32,
        omega: float = 30.0,
        separable: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        size = at_least("kernel_size", kernel_size, 2)
        widths = [self.input_size] + [self.output_size] * positive("layers", layers)

        def make(inputs: int) -> nn.Module:
            return ContinuousConv(inputs, self.output_size, size, hidden, omega, separable)

        self.blocks = nn.ModuleList(Block(widths[i], widths[i + 1], make) for i in range(layers))
