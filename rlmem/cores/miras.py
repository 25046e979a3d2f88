"""The three memories of Miras (Behrouz et al. 2025, arXiv 2504.13173, section 5.3): Titans' inner
memory with another loss (attentional bias) or another weight normalisation (retention).

    moneta:  A[t] = (1 - alpha) A[t-1] - theta grad |M(k) - v|_p^p,   W = A / |A|_q^(q-2)
    yaad:    W[t] = (1 - alpha) W[t-1] - theta grad of |e|^2 if |e| <= delta, else of its tangent
    memora:  W[t] = c softmax((1 - alpha) log W[t-1] - theta grad |M(k) - v|^2)

They learn by plain gradient descent, without Titans' momentum. As in the paper, gradients are taken
at the weights at the start of a chunk. But W is computed from the accumulated A at every token, not
only at the end of a chunk, so that an output depends on `chunk` only through the gradients. Choices
that the paper leaves open, and differences from it:

- There is one rate per head, not per channel. M is the perceptron of `titans`, without an inner
  residual path or norm; a norm follows in the layer.
- `|A|_q` is the norm of one head's matrix.
- For large errors the paper's Yaad uses delta times the gradient of an L1 loss, in a form by
  coordinates and one by the error's length |e|. Here it is the second, whose gradient is
  continuous. delta depends on the input, like the other rates.
- Memora's softmax is over the inputs of a unit. c is the square root of their number, which keeps
  the scale of the unit's sum. A softmax ignores a common offset, so log W is the plain sum of all
  updates.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.inner_memory import LearningCore
from rlmem.kernels.titans import Rule


@register("moneta")
class Moneta(LearningCore):
    """Moneta: test-time memory with an L_p loss and L_q weight normalisation (Behrouz et al. 2025).

    The loss is the p-th power of the error's L_p norm.
    """

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


class _FixedRuleCore(LearningCore):
    """The constructor of Yaad and Memora, which fix `bias` and `retention` and add no options."""

    bias = "l2"
    retention = "l2"

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
        rule = Rule(chunk, limit, bias=self.bias, retention=self.retention)
        super().__init__(input_size, output_size, heads, depth, expand, conv_size, rule, False)


@register("yaad")
class Yaad(_FixedRuleCore):
    """Yaad: test-time memory with Huber's loss (Behrouz et al. 2025).

    The loss is quadratic up to an error length that depends on the input, and linear beyond.
    """

    bias = "huber"


@register("memora")
class Memora(_FixedRuleCore):
    """Memora: test-time memory whose weights are a softmax of learned logits (Behrouz et al. 2025).

    The softmax is the effect of a KL penalty as retention.
    """

    retention = "kl"
