"""A stack of residual pre-norm blocks of one core: `x + core(LN(x))`."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import MemoryCore, linear_or_identity, register, registry
from rlmem.errors import positive


@register("stack")
class Stack(MemoryCore[tuple[Any, ...]]):
    """Stack: `layers` residual pre-norm blocks of the core named `core`.

    Every block has width `output_size` and the same `options`. A linear map comes first if
    `input_size` differs. The state is the tuple of the blocks' states.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        core: str = "gru",
        layers: int = 2,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(input_size, output_size)
        width = self.output_size
        self.embed = linear_or_identity(self.input_size, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(positive("layers", layers)))
        self.blocks = nn.ModuleList(
            registry.make(core, input_size=width, output_size=width, **(options or {}))
            for _ in range(layers)
        )

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(block.initial_state(batch_size) for block in self._cores())

    def update(
        self, x: Float[Tensor, "B I"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "B O"], tuple[Any, ...]]:
        x, states = self.embed(x), []
        for norm, block, s in zip(self.norms, self._cores(), state, strict=True):
            y, s = block.update(norm(x), s)
            x = x + y
            states.append(s)
        return x, tuple(states)

    def scan(
        self, x: Float[Tensor, "B T I"], state: tuple[Any, ...], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], tuple[Any, ...]]:
        x, states = self.embed(x), []
        for norm, block, s in zip(self.norms, self._cores(), state, strict=True):
            y, s = block.scan(norm(x), s, start)
            x = x + y
            states.append(s)
        return x, tuple(states)

    def _cores(self) -> list[MemoryCore[Any]]:
        return list(self.blocks)  # type: ignore[arg-type]
