"""Frame stacking (Mnih et al. 2015, Nature 518:529-533): the last inputs as one vector.

y = gelu(W [x[t-K+1]; ...; x[t]] + b), with zeros before the episode's start. A baseline without
recurrence; one frame is the core `none`.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.window import CausalConv
from rlmem.errors import positive


@register("frame_stack")
class FrameStack(MemoryCore[Tensor]):
    """Frame stack: a perceptron of the last `frames` inputs, a baseline (Mnih et al. 2015).

    The state is the window of the last inputs, [B, frames - 1, I].
    """

    def __init__(self, input_size: int, output_size: int | None = None, *, frames: int = 8) -> None:
        super().__init__(input_size, output_size)
        self.conv = CausalConv(self.input_size, self.output_size, positive("frames", frames))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.conv.kept, self.input_size)

    def update(self, x: Float[Tensor, "B I"], state: Tensor) -> tuple[Float[Tensor, "B O"], Tensor]:
        y, state = self.conv.step(x, state)
        return F.gelu(y), state

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        y, state = self.conv.scan(x, state, start)
        return F.gelu(y), state
