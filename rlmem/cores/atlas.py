"""Atlas (Behrouz et al. 2025, arXiv 2505.23735): Titans' memory, retrained on a sliding window of
`window` tokens at every token (the Omega rule).

    S[t] = eta S[t-1] - theta[t] sum_{t - window < j <= t} gamma[j] grad |M(k[j]) - v[j]|^2
    M[t] = (1 - alpha[t]) M[t-1] + S[t]                                   (muon_steps: 0)
    M[t] = (1 - alpha[t]) M[t-1] + theta[t] NewtonSchulz(S[t])            (S without theta)

Choices that the paper leaves open, and differences from it:

- With `degree` p above 1, f(k) and f(q) replace k and q: all monomials of degree 0 to p, weighted
  so that f(k) . f(q) = sum_i c_i (k . q)^i with learned c, at first a series of exp(k . q) (section
  3.1: the capacity grows with the number of features). They are scaled to length 1, so that the
  step sizes are stable for any c. They are off by default: with degree 2 a scan of 64 channels
  takes 4 times as long. A window of one and degree 1 are Titans.
- gamma, the weight of a token in the window, depends on both positions in the paper. Here it is a
  gate computed from the token's own input.
- The window holds the last tokens of the episode, across chunk borders. Gradients of tokens of
  earlier chunks are taken at the weights of the current chunk.
- The Newton-Schulz steps of Muon (the paper: 5) need one matrix per token, whereas the rule without
  them needs a few matrix products per chunk. They are an option, off by default. They also raise
  the smallest singular values about a hundredfold, together with their rounding errors.
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
        degree: int = 1,
    ) -> None:
        rule = Rule(chunk, limit, window=window, orthogonal=muon_steps)
        sizes = input_size, output_size
        super().__init__(*sizes, heads, depth, expand, conv_size, rule, degree=degree)
