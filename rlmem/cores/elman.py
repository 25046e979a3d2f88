"""Elman network (Elman 1990, Cognitive Science 14:179-211): the simple recurrent network.

h' = tanh(W x + U h + b), or with relu; the output is h'.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.simple import SimpleCore, activated


@register("elman")
class Elman(SimpleCore):
    """Elman network: h' = tanh(W x + U h + b), the simple recurrent network (Elman 1990).

    `activation` is tanh or relu; with relu the state may grow without limit.
    """

    def __init__(
        self, input_size: int, output_size: int | None = None, *, activation: str = "tanh"
    ) -> None:
        self.cell = activated("elman", "tanh", activation)
        super().__init__(input_size, output_size)
        self.claims_length = activation == "tanh"
