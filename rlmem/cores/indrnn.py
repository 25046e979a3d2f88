"""Independently recurrent neural network (Li et al. 2018, arXiv 1803.04831).

h' = relu(W x + b + u * h), one recurrent weight per unit, with |u| <= 2^(1/T) (section 3.2): over
T steps a unit then grows at most twofold. A unit reads others in the next layer only: x is the
input or the layer below. The output is the last layer's h'.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.simple import activated
from rlmem.errors import positive
from rlmem.kernels import Linear
from rlmem.kernels.simple_rnn import simple_rnn, simple_step

State = tuple[Tensor, ...]


class Layer(nn.Module):
    """The parameters of a layer, with |u| at most `bound`.

    W is initialised as for a layer of relus (He et al. 2015), u uniformly within the bound: with
    u in [0, 1], the paper's choice, units are too much alike to tell the order of recent inputs.
    """

    def __init__(self, input_size: int, output_size: int, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.linear = Linear(input_size, output_size)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        self.u = nn.Parameter(torch.empty(output_size).uniform_(-bound, bound))

    def bounded(self) -> Float[Tensor, "O"]:
        """`u` within its bound. The gradient ignores the bound, so that `u` can return."""
        return self.u + (self.u.clamp(-self.bound, self.bound) - self.u).detach()


@register("indrnn")
class IndRNN(MemoryCore[State]):
    """IndRNN: layers of units that are recurrent with themselves alone (Li et al. 2018).

    `horizon` is the paper's T; None means no end, so |u| <= 1. `activation` is relu or tanh. The
    state is `h` of each layer, [B, O].
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 3,
        activation: str = "relu",
        horizon: int | None = None,
    ) -> None:
        super().__init__(input_size, output_size)
        self.cell = activated("indrnn", "relu", activation)
        bound = 1.0 if horizon is None else 2.0 ** (1 / positive("horizon", horizon))
        widths = [self.input_size] + [self.output_size] * positive("layers", layers)
        self.layers = nn.ModuleList(Layer(widths[i], widths[i + 1], bound) for i in range(layers))
        # With a bound above 1, a relu may overflow in rows much longer than the horizon.
        self.claims_length = activation == "tanh" or horizon is None

    def initial_state(self, batch_size: int) -> State:
        return tuple(self.zeros(batch_size, self.output_size) for _ in self.layers)

    def update(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        states = []
        for layer, h in zip(self._layers(), state, strict=True):
            projected = layer.linear(x).to(self.state_dtype)
            (x,) = simple_step(self.cell, projected, layer.bounded(), (h,))
            states.append(x)
        return x, tuple(states)

    def scan(
        self, x: Float[Tensor, "B T I"], state: State, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], State]:
        states = []
        for layer, h in zip(self._layers(), state, strict=True):
            projected = layer.linear(x).to(self.state_dtype)
            x, (h,) = simple_rnn(self.cell, projected, layer.bounded(), (h,), start)
            states.append(h)
        return x, tuple(states)

    def _layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))
