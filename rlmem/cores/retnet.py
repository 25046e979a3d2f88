"""Multi-scale retention of RetNet (Sun et al. 2023, arXiv 2307.08621, equations 5 to 8).

    [q; k; v; g] = W x (k over sqrt(D)),   gamma = 1 - 2^(-5-h) for head h
    C[t] = gamma R C[t-1] + k v^T,   out = W_out(silu(g) norm(C^T q))

R rotates pairs of units by angles 10000^(-2j/D). It is the paper's q[t] e^(i t theta),
k[s] e^(-i s theta), of which only t - s matters. So steps need not be counted from an episode's
start: the state is stored as rotated for its last step, and every step rotates it by one. Without R
(`rotate=False`) a head tells the age of an input only from its decay. As in the authors' code,
gamma alone decays the past, without xPos's additional decay. The norm is one per head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.heads import HeadNorm, split_heads
from rlmem.cores.over_ranks import matrix_ends
from rlmem.errors import UsageError, positive
from rlmem.kernels import Linear, matrix_memory
from rlmem.kernels.matrix_memory import Memory, matrix_memory_step


def rotate_pairs(
    x: Float[Tensor, "*N D"], cos: Float[Tensor, "*M E"], sin: Float[Tensor, "*M E"]
) -> Float[Tensor, "*N D"]:
    """Rotates E = D / 2 complex numbers; the halves of `x` are their real and imaginary parts."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@register("retnet")
class RetNet(MemoryCore[Tensor]):
    """RetNet: multi-scale retention, a matrix memory with fixed decays (Sun et al. 2023).

    The state is C, [B, heads, D, D]. D is `head_size`, an even number. By default it is the
    smallest with which the heads cover the output, but at least 8, since the norm of very small
    heads leaves little more than signs.
    """

    forgets_nonfinite = False  # a chunk multiplies steps before a start by zero

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        head_size: int | None = None,
        rotate: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        self.heads = positive("heads", heads)
        size = max(8, 2 * -(-self.output_size // (2 * heads))) if head_size is None else head_size
        if positive("head_size", size) % 2 and rotate:
            raise UsageError(f"head_size must be even to rotate pairs of units, not {size}")
        self.size, self.rotate = size, rotate
        self.project = Linear(self.input_size, 4 * heads * size, bias=False)
        self.norm = HeadNorm(heads, size)
        self.W_out = Linear(heads * size, self.output_size, bias=False)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.heads, self.size, self.size)

    def update(self, x: Float[Tensor, "B I"], state: Tensor) -> tuple[Float[Tensor, "B O"], Tensor]:
        q, k, v, gate = self._project(x)
        memory = Memory(self._rotated(state, 1))
        h, new = matrix_memory_step(q, k, v, memory, None, self._log_decay(), forget="exponential")
        return self._output(h, gate), new.C

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        q, k, v, gate = self._project(x)
        time = x.shape[1]
        if self.rotate:
            cos, sin = self._angles(torch.arange(time, device=x.device))
            # R^(t-s) between q[t] and k[s]: both are rotated back to the row's first step.
            q, k = (rotate_pairs(each, cos[:, None], -sin[:, None]) for each in (q, k))
        memory = Memory(self._rotated(state, 1))
        h, new = matrix_memory(
            q, k, v, None, self._log_decay(), memory, start, forget="exponential"
        )
        return self._output(h, gate), self._rotated(new.C, time - 1)

    def ends_over_ranks(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        """For `scan_over_ranks`: the states before this rank's piece and after the whole row."""
        _, own = self.scan(x, self.initial_state(x.shape[0]), start)

        def passed(before: Tensor, time: int) -> Tensor:
            return (time * self._log_decay()).exp()[:, None, None] * self._rotated(before, time)

        return matrix_ends(own, passed, state, x.shape[1], start)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, gate = self.project(x).chunk(4, dim=-1)
        q, k, v = (split_heads(each, self.heads) for each in (q, k * self.size**-0.5, v))
        return q, k, v, gate

    def _log_decay(self) -> Float[Tensor, "H"]:
        head = torch.arange(self.heads, device=self._anchor.device, dtype=self.state_dtype)
        return torch.log1p(-torch.exp2(-5 - head))

    def _angles(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of all pairs' angles, [*N, D / 2]; float64 is exact for late steps."""
        pair = torch.arange(self.size // 2, device=position.device, dtype=torch.float64)
        angle = position[..., None] * 10000.0 ** (-2 * pair / self.size)
        return angle.cos().to(self.state_dtype), angle.sin().to(self.state_dtype)

    def _rotated(self, state: Tensor, steps: int) -> Tensor:
        """The state rotated for a step that is `steps` later."""
        if not self.rotate:
            return state
        cos, sin = self._angles(torch.tensor(steps, device=state.device))
        return rotate_pairs(state.mT, cos, sin).mT

    def _output(self, h: Tensor, gate: Tensor) -> Float[Tensor, "*N O"]:
        return self.W_out(F.silu(gate) * self.norm(h))
