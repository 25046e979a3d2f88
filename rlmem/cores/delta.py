"""Base class of DeltaNet and Gated DeltaNet: a matrix memory written by the delta rule.

    [q; k_1..k_N; v_1..v_N] = silu(conv(W_in x) + b),   q, k_n scaled to length 1
    beta_n = sigmoid(W_beta x), times 2 with negative eigenvalues
    S = exp(g) S, then for n = 1..N:  S = S + beta_n k_n (v_n - S^T k_n)^T      per head, [K, V]
    out = W_out(rmsnorm(S^T q))

A write multiplies the old memory by `I - beta k k^T`, whose eigenvalue 1 - beta is in (0, 1), or in
(-1, 1) with negative eigenvalues. A negative one is a reflection, which a model needs to track a
state that flips (Grazzi et al. 2024, arXiv 2411.12537). N reflections in one time step compose to
rotations and permutations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore
from rlmem.cores.conv import ShortConv
from rlmem.errors import positive
from rlmem.kernels import Linear, delta_rule


class DeltaState(NamedTuple):
    """`window` [B, W-1, channels]: the convolution's last inputs; `S` [B, H, K, V]: the memory."""

    window: Tensor
    S: Tensor


class DeltaInputs(NamedTuple):
    """Arguments of the delta rule, computed from the input.

    `q` is [*K, H, K]; `k` and `v` are [*K, N, H, K]; `beta` is [*K, N, H]; `g` is [*K, H] or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor | None


def unit(x: Tensor) -> Tensor:
    """`x` scaled to length 1 along its last dimension; shorter if `x` is nearly zero."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def write(
    S: Float[Tensor, "*N K V"],
    key: Float[Tensor, "*N K"],
    value: Float[Tensor, "*N V"],
    beta: Float[Tensor, "*N"],
) -> Float[Tensor, "*N K V"]:
    """The memory after one write by the delta rule: `S + beta k (v - S^T k)^T`."""
    key = key[..., None]
    new = value - (S * key).sum(-2)
    return S + key * (beta[..., None] * new)[..., None, :]


class DeltaCore(MemoryCore[DeltaState]):
    """`heads` matrix memories for keys and values of `head_size` entries."""

    forgets_nonfinite = False  # resets within a chunk are multiplications by zero

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        head_size: int | None = None,
        householder_steps: int = 1,
        negative_eigenvalues: bool = False,
        conv_size: int = 4,
    ) -> None:
        super().__init__(input_size, output_size)
        self.heads = positive("heads", heads)
        # By default all heads together are as wide as the output, rounded up.
        size = -(-self.output_size // heads) if head_size is None else head_size
        self.head_size = positive("head_size", size)
        self.writes = positive("householder_steps", householder_steps)
        self.negative_eigenvalues = negative_eigenvalues
        self.inner = heads * size
        channels = (1 + 2 * self.writes) * self.inner
        self.W_in = Linear(self.input_size, channels, bias=False)
        self.conv = ShortConv(channels, conv_size)
        self.W_beta = Linear(self.input_size, self.writes * heads, bias=False)
        self.norm = nn.Parameter(torch.ones(size))
        self.W_out = Linear(self.inner, self.output_size, bias=False)

    def log_decay(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N H"] | None:
        """The log-decay `g` of the memory; None means no decay."""
        return None

    def gate(self, y: Float[Tensor, "*N D"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N D"]:
        """The memory's output `y` after an output gate; here there is none."""
        return y

    def initial_state(self, batch_size: int) -> DeltaState:
        window = self.zeros(batch_size, self.conv.size - 1, self.conv.channels)
        return DeltaState(
            window, self.zeros(batch_size, self.heads, self.head_size, self.head_size)
        )

    def update(
        self, x: Float[Tensor, "B I"], state: DeltaState
    ) -> tuple[Float[Tensor, "B O"], DeltaState]:
        convolved, window = self.conv.step(self._project(x), state.window)
        q, k, v, beta, g = self._delta_inputs(convolved, x)
        S = state.S if g is None else g.exp()[..., None, None] * state.S
        for n in range(self.writes):
            S = write(S, k[:, n], v[:, n], beta[:, n])
        return self._output((S * q[..., None]).sum(-2), x), DeltaState(window, S)

    def scan(
        self, x: Float[Tensor, "B T I"], state: DeltaState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], DeltaState]:
        convolved, window = self.conv.scan(self._project(x), state.window, start)
        o, S = delta_rule(*self._delta_inputs(convolved, x), state.S, start)
        return self._output(o, x), DeltaState(window, S)

    def _project(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N C"]:
        return self.W_in(x).to(self.state_dtype)

    def _delta_inputs(
        self, convolved: Float[Tensor, "*N C"], x: Float[Tensor, "*N I"]
    ) -> DeltaInputs:
        shape = (-1, self.heads, self.head_size)
        q, k, v = (
            F.silu(convolved).unflatten(-1, shape).split((1, self.writes, self.writes), dim=-3)
        )
        beta = self.W_beta(x).to(self.state_dtype).sigmoid().unflatten(-1, shape[:2])
        beta = 2 * beta if self.negative_eigenvalues else beta
        return DeltaInputs(unit(q).squeeze(-3), unit(k), v, beta, self.log_decay(x))

    def _output(
        self, o: Float[Tensor, "*N H V"], x: Float[Tensor, "*N I"]
    ) -> Float[Tensor, "*N O"]:
        y = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * self.norm
        return self.W_out(self.gate(y.flatten(-2), x))
