"""Miras' three memories (Behrouz et al. 2025, arXiv 2504.13173, section 5.3): what Titans' inner
memory becomes with another loss (attentional bias), or another way to keep what it learned.

    moneta:  A[t] = (1 - alpha) A[t-1] - theta grad |M(k) - v|_p^p,   W = A / |A|_q^(q-2)
    yaad:    W[t] = (1 - alpha) W[t-1] - theta grad of |e|^2 if |e| <= delta, else of its tangent
    memora:  W[t] = c softmax((1 - alpha) log W[t-1] - theta grad |M(k) - v|^2)

They learn by plain gradient descent, without Titans' momentum. The gradients are taken at the
weights when a chunk opened, as in the paper, but W follows from what was accumulated at each token
and not at the chunk's end alone, so that an answer depends on `chunk` through the gradients only.
What the paper leaves open, or is otherwise here:

- Rates are a number for each head and not for each channel, and M is the perceptron of `titans`,
  without a residual path and norm inside of it; a norm follows in the layer.
- `|A|_q` is that of one head's matrix.
- Yaad's paper writes the far branch as delta times the gradient of an L1 loss, and gives a form by
  coordinates and one by the error's length |e|: this is the second, whose gradient is continuous.
  delta depends on the input, as the other rates.
- Memora's softmax is over the inputs of a unit, which shares a weight among them, and c is the root
  of their number, which keeps the scale of a sum of them. Since the softmax forgets a common
  term, log W is the plain sum of what was learned.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.inner_memory import LearningCore
from rlmem.kernels.titans import Rule


@register("moneta")
class Moneta(LearningCore):
    """The loss is a power of the error's L_p norm, the weights are divided by their L_q norm's."""

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
        power: float = 3.0,
        norm: float = 4.0,
    ) -> None:
        rule = Rule(chunk, limit, bias="lp", power=power, retention="lq", norm=norm)
        super().__init__(input_size, output_size, heads, depth, expand, conv_size, rule, False)


@register("yaad")
class Yaad(LearningCore):
    """Huber's loss: an error that is longer than the input says counts by its length only."""

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
    ) -> None:
        rule = Rule(chunk, limit, bias="huber")
        super().__init__(input_size, output_size, heads, depth, expand, conv_size, rule, False)


@register("memora")
class Memora(LearningCore):
    """Weights are shares: the softmax of what was learned."""

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
    ) -> None:
        rule = Rule(chunk, limit, retention="kl")
        super().__init__(input_size, output_size, heads, depth, expand, conv_size, rule, False)
