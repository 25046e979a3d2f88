"""mLSTM, the matrix memory of xLSTM (Beck et al. 2024, arXiv 2405.04517, equations 19 to 27).

    [u; o'] = W_in x,   c = silu(conv(u)),   [q; k] = W_qk c (k over sqrt(D)),   v = W_v u
    i' = w_i x + b_i,   f' = w_f x + b_f                                          (per head)
    C[t] = s(f') C[t-1] + exp(i') k v^T,   n[t] = s(f') n[t-1] + exp(i') k
    h = C^T q / max(|n.q|, 1),   out = W_out(s(o') (norm(h) + skip c))

Convolution and skip connection are those of the paper's block (figure 11); the block's residual
branch and wider projection are in `xlstm.py`. The stored memory is divided by exp(m), with m a
running maximum, which keeps it finite. The norm is a layer norm per head, as in the authors' cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import HeadNorm, split_heads
from rlmem.errors import positive
from rlmem.kernels import Linear, matrix_memory
from rlmem.kernels.matrix_memory import Memory, matrix_memory_step

EPS = 1e-6  # added to the divisor, as in the authors' code


class MLSTMState(NamedTuple):
    """`C` [B, H, D, D] and `n` [B, H, D], both divided by exp(`m`) [B, H]."""

    C: Tensor
    n: Tensor
    m: Tensor


class MLSTMCell(nn.Module):
    """Memory, gates and norm of an mLSTM with `heads` heads of `size` units.

    The caller projects its input to `q`, `k` and `v` [*N, H D]; the gates are a linear map of any
    `inputs` [*N, G]. Keys are divided by sqrt(D) here. Gates are initialised as the authors do:
    weights 0, forget biases from 3 to 6 along the heads, input biases normal with deviation 0.1.
    """

    def __init__(self, heads: int, size: int, gate_size: int) -> None:
        super().__init__()
        self.heads = positive("heads", heads)
        self.size = positive("head_size", size)
        self.gates = Linear(gate_size, 2 * heads)
        self.norm = HeadNorm(heads, size)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:heads].normal_(0, 0.1)
            self.gates.bias[heads:] = torch.linspace(3.0, 6.0, heads)

    def initial_state(self, zeros: Tensor) -> MLSTMState:
        """The empty memory of as many rows as `zeros` [B] has, in its dtype and on its device."""
        head = (zeros.shape[0], self.heads)
        sizes = ((*head, self.size, self.size), (*head, self.size), head)
        return MLSTMState(*(zeros.new_zeros(size) for size in sizes))

    def step(
        self,
        q: Float[Tensor, "B W"],
        k: Float[Tensor, "B W"],
        v: Float[Tensor, "B W"],
        inputs: Float[Tensor, "B G"],
        state: MLSTMState,
    ) -> tuple[Float[Tensor, "B W"], MLSTMState]:
        """One step without resets: the output and the next state."""
        h, new = matrix_memory_step(
            *self._heads(q, k, v),
            Memory(*state),
            *self._gates(inputs, state),
            normalizer="max",
            eps=EPS,
        )
        return self.norm(h), self._state(new)

    def scan(
        self,
        q: Float[Tensor, "B T W"],
        k: Float[Tensor, "B T W"],
        v: Float[Tensor, "B T W"],
        inputs: Float[Tensor, "B T G"],
        state: MLSTMState,
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], MLSTMState]:
        """A row of steps: the outputs and the last state."""
        h, new = matrix_memory(
            *self._heads(q, k, v),
            *self._gates(inputs, state),
            Memory(*state),
            start,
            normalizer="max",
            eps=EPS,
        )
        return self.norm(h), self._state(new)

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(x, self.heads) for x in (q, k * self.size**-0.5, v))
        return q, k, v

    def _gates(self, inputs: Tensor, state: MLSTMState) -> tuple[Tensor, Tensor]:
        i, f = self.gates(inputs).to(state.C.dtype).chunk(2, dim=-1)
        return i, f

    def _state(self, memory: Memory) -> MLSTMState:
        assert memory.n is not None
        assert memory.m is not None
        return MLSTMState(memory.C, memory.n, memory.m)


class MLSTMCoreState(NamedTuple):
    """`window` [B, W-1, H D]: the convolution's last inputs; the rest is the cell's state."""

    window: Tensor
    C: Tensor
    n: Tensor
    m: Tensor


@register("mlstm")
class MLSTM(MemoryCore[MLSTMCoreState]):
    """mLSTM: the matrix memory of xLSTM with exponential input gates (Beck et al. 2024).

    There are `heads` heads of `head_size` units. By default the heads cover the output, with at
    least 8 units each, since the norm of very small heads leaves little more than signs. The
    convolution covers `conv_size` inputs of one episode (1: none).
    """

    forgets_nonfinite = False  # a chunk multiplies steps before a start by zero

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
        positive("heads", heads)
        size = max(8, -(-self.output_size // heads)) if head_size is None else head_size
        self.cell = MLSTMCell(heads, size, self.input_size)
        inner = heads * size
        self.W_in = Linear(self.input_size, 2 * inner)
        self.conv = ShortConv(inner, conv_size)
        self.W_qk = Linear(inner, 2 * inner)
        self.W_v = Linear(inner, inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.W_out = Linear(inner, self.output_size)

    def initial_state(self, batch_size: int) -> MLSTMCoreState:
        window = self.zeros(batch_size, self.conv.size - 1, self.conv.channels)
        return MLSTMCoreState(window, *self.cell.initial_state(self.zeros(batch_size)))

    def update(
        self, x: Float[Tensor, "B I"], state: MLSTMCoreState
    ) -> tuple[Float[Tensor, "B O"], MLSTMCoreState]:
        u, o = self.W_in(x).chunk(2, dim=-1)
        c, window = self.conv.step(u, state.window)
        c = F.silu(c)
        h, memory = self.cell.step(*self._qkv(u, c), x, MLSTMState(*state[1:]))
        return self._output(h, c, o), MLSTMCoreState(window, *memory)

    def scan(
        self, x: Float[Tensor, "B T I"], state: MLSTMCoreState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], MLSTMCoreState]:
        u, o = self.W_in(x).chunk(2, dim=-1)
        c, window = self.conv.scan(u, state.window, start)
        c = F.silu(c)
        h, memory = self.cell.scan(*self._qkv(u, c), x, MLSTMState(*state[1:]), start)
        return self._output(h, c, o), MLSTMCoreState(window, *memory)

    def _qkv(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = self.W_qk(c).chunk(2, dim=-1)
        return q, k, self.W_v(u)

    def _output(self, h: Tensor, c: Tensor, o: Tensor) -> Float[Tensor, "*N O"]:
        return self.W_out(torch.sigmoid(o) * (h + self.skip * c))
