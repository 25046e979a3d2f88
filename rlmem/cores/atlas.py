"""Atlas (Behrouz et al. 2025, arXiv 2505.23735): Titans' memory, which learns the last `window`
tokens again at each of them (the Omega rule).

    S[t] = eta S[t-1] - theta[t] sum_{t - window < j <= t} gamma[j] grad |M(k[j]) - v[j]|^2
    M[t] = (1 - alpha[t]) M[t-1] + S[t]                                   (muon_steps: 0)
    M[t] = (1 - alpha[t]) M[t-1] + theta[t] NewtonSchulz(S[t])            (S without theta)

A window of one is Titans. What the paper leaves open, or is otherwise here:

- gamma, what a token counts in the window, depends on both places in the paper; here it is a gate
  of the token's own input. Which tokens are in the window depends on the episode alone: none is
  of another one, and tokens of earlier chunks are learned from at the weights of the chunk that
  is open.
- The Newton-Schulz steps of Muon (the paper: 5) write out a matrix for each token, where the
  rule without them is a few products for each chunk: they are an option, off at first. They also
  raise the smallest singular values some hundred times, and rounding with them.
- Keys are not mapped to polynomials first; the inner memory's first layer is a feature map.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.inner_memory import LearningCore
from rlmem.kernels.titans import Rule


@register("atlas")
class Atlas(LearningCore):
    """A memory that learns from the last `window` tokens at once."""

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
