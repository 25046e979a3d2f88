"""Wave RNN (Keller et al. 2024, arXiv 2309.08045): activity travels around rings of units.

    h' = relu(u * h + V x + b),   u * h a circular convolution over the positions of a ring

h has `channels` rings of O / channels positions; `u` [channels, channels, 3] also mixes rings. It
is initialised to a shift by one position within each ring, so that an input travels unchanged:
a unit's position tells how long ago its input came. The output is h'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlmem.cores.base import register
from rlmem.cores.simple import SimpleCore
from rlmem.errors import UsageError, positive


@register("wave_rnn")
class WaveRNN(SimpleCore):
    """Wave RNN: rings of units with a convolution as recurrence (Keller et al. 2024).

    `channels` is the number of rings; None means the divisor of the width nearest to its root.
    """

    cell = "elman_relu"
    claims_length = False  # a convolution may amplify
    shifts: Tensor

    def __init__(
        self, input_size: int, output_size: int | None = None, *, channels: int | None = None
    ) -> None:
        self.channels = channels
        super().__init__(input_size, output_size)

    def make_recurrent(self) -> None:
        width = self.output_size
        if self.channels is None:
            divisors = [n for n in range(1, width + 1) if width % n == 0]
            self.channels = min(divisors, key=lambda n: abs(n - math.sqrt(width)))
        if width % positive("channels", self.channels):
            raise UsageError(f"channels must divide the width {width}, not {self.channels}")
        ring = torch.eye(width // self.channels)
        # Position i reads position i - 1, i and i + 1 of the step before.
        self.register_buffer(
            "shifts", torch.stack([ring.roll(k, 1) for k in (-1, 0, 1)]), persistent=False
        )
        u = torch.zeros(self.channels, self.channels, 3)
        u[:, :, 0] = torch.eye(self.channels)
        self.u = nn.Parameter(u)

    def recurrent_weight(self) -> Tensor:
        matrix = torch.einsum("abk,kij->aibj", self.u, self.shifts)
        return matrix.reshape(self.output_size, self.output_size).t()
