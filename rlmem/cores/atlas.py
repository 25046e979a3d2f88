"""Atlas (Behrouz et al. 2025, arXiv 2505.23735): Titans' memory, retrained on a sliding window of
`window` tokens at every token (the Omega rule).

    S[t] = eta S[t-1] - theta[t] sum_{t - window < j <= t} gamma[j] grad |M(k[j]) - v[j]|^2
    M[t] = (1 - alpha[t]) M[t-1] + S[t]                                   (muon_steps: 0)
    M[t] = (1 - alpha[t]) M[t-1] + theta[t] NewtonSchulz(S[t])            (S without theta)

A window of one is Titans. Choices that the paper leaves open, and differences from it:

- gamma, the weight of a token in the window, depends on both positions in the paper. Here it is a
  gate computed from the token's own input.
- The window holds the last tokens of the episode, across chunk borders. Gradients of tokens of
  earlier chunks are taken at the weights of the current chunk.
- The Newton-Schulz steps of Muon (the paper: 5) need one matrix per token, whereas the rule without
  them needs a few matrix products per chunk. They are an option, off by default. They also raise
  the smallest singular values about a hundredfold, together with their rounding errors.
- Keys are not mapped to polynomials; the inner memory's first layer is a feature map.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.inner_memory import LearningCore
from rlmem.kernels.titans import Rule


@register("atlas")
class Atlas(LearningCore):
    """Atlas: neural memory trained at test time on a sliding window (Behrouz et al. 2025)."""

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        depth: int = 2,
        expand: int = 2,
        chunk: int = 8,
        conv_size: int = 4,
        limit: float | None = 4.0,
        window: int = 4,
        muon_steps: int = 0,
    ) -> None:
        rule = Rule(chunk, limit, window=window, orthogonal=muon_steps)
        super().__init__(input_size, output_size, heads, depth, expand, conv_size, rule)
