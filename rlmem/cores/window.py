"""Causal convolution over all channels with a window of past inputs, within an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore
from rlmem.kernels import Linear
from rlmem.kernels.episodes import ages

Windows = tuple[Tensor, ...]


def step_taps(
    x: Float[Tensor, "B I"], window: Float[Tensor, "B V I"], dilation: int = 1
) -> tuple[Float[Tensor, "B KI"], Float[Tensor, "B V I"]]:
    """The inputs that a step of a convolution reads, oldest first, and the next window."""
    row = torch.cat([window, x[:, None].to(window.dtype)], dim=1)
    return row[:, ::dilation].flatten(1), row[:, 1:]


def scan_taps(
    x: Float[Tensor, "B T I"],
    window: Float[Tensor, "B V I"],
    start: Bool[Tensor, "B T"],
    dilation: int = 1,
) -> tuple[Float[Tensor, "B T KI"], Float[Tensor, "B V I"]]:
    """`step_taps` of a row. Inputs before a start are never read."""
    x = x.to(window.dtype)
    row, time, kept = torch.cat([window, x], dim=1), x.shape[1], window.shape[1]
    # The window is zero before a start, so that all of it may be read.
    age = ages(torch.full_like(start[:, 0], kept, dtype=torch.int64), start)
    taps = [x]
    for delay in range(dilation, kept + 1, dilation):
        past = row[:, kept - delay : kept - delay + time]
        taps.append(torch.where((age >= delay)[..., None], past, 0))
    place = torch.arange(-kept, 0, device=x.device)
    since = age[:, -1:] + place + 1  # the age at each place of the next window
    after = torch.where((since >= 0)[..., None], row[:, time:], 0)
    return torch.cat(taps[::-1], dim=-1), after


class CausalConv(nn.Module):
    """`y[t] = W [x[t - (K-1) d]; ...; x[t - d]; x[t]] + b` with kernel size K and dilation d.

    Inputs before the episode's start are zero. The window [B, (K-1) d, I] holds the last inputs,
    oldest first.
    """

    def __init__(self, input_size: int, output_size: int, size: int, dilation: int = 1) -> None:
        super().__init__()
        self.input_size = input_size
        self.size, self.dilation = size, dilation
        self.kept = (size - 1) * dilation
        self.linear = Linear(size * input_size, output_size)

    def step(
        self, x: Float[Tensor, "B I"], window: Float[Tensor, "B V I"]
    ) -> tuple[Float[Tensor, "B O"], Float[Tensor, "B V I"]]:
        """The output of one step, and the next window."""
        taps, window = step_taps(x, window, self.dilation)
        return self.linear(taps), window

    def scan(
        self, x: Float[Tensor, "B T I"], window: Float[Tensor, "B V I"], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Float[Tensor, "B V I"]]:
        """The outputs of a row, and the next window. Inputs before a start are never read."""
        taps, window = scan_taps(x, window, start, self.dilation)
        return self.linear(taps), window


class ConvBlock(nn.Module):
    """A layer of convolutions on a residual path; subclasses make the convolutions."""

    skip: nn.Module

    def parts(self) -> Iterable[tuple[Any, Callable[[Tensor], Tensor]]]:
        """Each convolution (with `step`, `scan`, `kept`, `input_size`), and the norm after it."""
        raise NotImplementedError


class ConvNet(MemoryCore[Windows]):
    """Residual blocks of causal convolutions, whose windows are the state.

    y = relu(skip(x) + z), with z = relu(norm(conv(z))) for each of a block's parts, from x on.
    """

    blocks: nn.ModuleList

    def initial_state(self, batch_size: int) -> Windows:
        return tuple(
            self.zeros(batch_size, conv.kept, conv.input_size)
            for block in self._blocks()
            for conv, _ in block.parts()
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
        convolve: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Windows]:
        """The output and the next windows; `convolve` is a convolution's step or scan."""
        windows: list[Tensor] = []
        given: Iterator[Tensor] = iter(state)
        for block in self._blocks():
            y = x
            for conv, norm in block.parts():
                y, window = convolve(conv, y, next(given))
                y = F.relu(norm(y))
                windows.append(window)
            x = F.relu(block.skip(x) + y)
        return x, tuple(windows)

    def _blocks(self) -> list[ConvBlock]:
        return list(self.blocks)  # type: ignore[arg-type]
