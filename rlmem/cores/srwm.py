"""Self-referential weight matrix (Irie et al. 2022, arXiv 2202.05780, equations 5 to 8).

    f = softmax(g rms(conv(W_in x)))                                 per head, g is a gain
    [y; q; k; b] = W f                                               b: four learning rates
    W' = W + s(b) (W softmax(q) - W softmax(k)) softmax(k)^T
    out = W_skip x + W_out y

W generates its own changes: at the key k, its outputs move towards those at the query q. Each of
the four parts of W (the rows of y, q, k and b) has its own learning rate. An episode begins with
W_0, which is learned by gradient descent. As in the authors' code, heads have separate matrices,
inputs of W are softmaxes, and the state has the sum of the changes, W - W_0.

Norm and convolution are not in the paper. The norm lets inputs of any scale select a part of W. W
has no values of its own to store at a key, only its outputs at other inputs: without the
convolution of the last steps, it learns to repeat inputs too slowly for an agent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, linear_or_identity, register
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import split_heads
from rlmem.errors import positive
from rlmem.kernels import Linear
from rlmem.kernels.self_reference import RATES, self_reference, self_step


class SRWMState(NamedTuple):
    """`window` [B, V-1, H D]: the convolution's last inputs; `change` [B, H, R, D]: W - W_0."""

    window: Tensor
    change: Tensor


@register("srwm")
class SRWM(MemoryCore[SRWMState]):
    """SRWM: a weight matrix that changes itself, from its own outputs (Irie et al. 2022).

    W is [heads, 3 D + 4, D]. D is `head_size`; by default all heads together are as wide as the
    output, rounded up.
    """

    claims_length = False  # changes of W may reinforce themselves

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        head_size: int | None = None,
        conv_size: int = 4,
    ) -> None:
        super().__init__(input_size, output_size)
        self.heads = positive("heads", heads)
        size = -(-self.output_size // heads) if head_size is None else head_size
        self.size = positive("head_size", size)
        self.W_in = Linear(self.input_size, heads * size, bias=False)
        self.conv = ShortConv(heads * size, conv_size)
        self.gain = nn.Parameter(torch.full((heads, 1), 2.0))
        self.W_0 = nn.Parameter(torch.randn(heads, 3 * size + RATES, size) * size**-0.5)
        self.W_out = Linear(heads * size, self.output_size, bias=False)
        self.skip = linear_or_identity(self.input_size, self.output_size)

    def initial_state(self, batch_size: int) -> SRWMState:
        window = self.zeros(batch_size, self.conv.size - 1, self.conv.channels)
        return SRWMState(window, self.zeros(batch_size, *self.W_0.shape))

    def update(
        self, x: Float[Tensor, "B I"], state: SRWMState
    ) -> tuple[Float[Tensor, "B O"], SRWMState]:
        u, window = self.conv.step(self.W_in(x).to(self.state_dtype), state.window)
        y, W = self_step(self._inputs(u), self.W_0 + state.change)
        return self._output(y, x), SRWMState(window, W - self.W_0)

    def scan(
        self, x: Float[Tensor, "B T I"], state: SRWMState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], SRWMState]:
        u, window = self.conv.scan(self.W_in(x).to(self.state_dtype), state.window, start)
        y, change = self_reference(self._inputs(u), self.W_0, state.change, start)
        return self._output(y, x), SRWMState(window, change)

    def _inputs(self, u: Float[Tensor, "*N C"]) -> Float[Tensor, "*N H D"]:
        normed = F.rms_norm(split_heads(u, self.heads), (self.size,), eps=1e-5)
        return (self.gain * normed).softmax(-1)

    def _output(self, y: Float[Tensor, "*N H D"], x: Float[Tensor, "*N I"]) -> Tensor:
        return self.skip(x) + self.W_out(y.flatten(-2))
