"""A stack of residual pre-norm blocks, of one core or of several: `x + core(LN(x))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import MemoryCore, linear_or_identity, register, registry
from rlmem.errors import UsageError, positive, unknown


def _blocks(
    core: str, layers: int | list[str], options: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The name and the options of each block's core."""
    if not isinstance(layers, list | tuple):
        return [(core, options)] * positive("layers", layers)
    if not layers:
        raise UsageError("layers must name at least one core, such as [s5, transformer_xl]")
    for name, given in options.items():
        if name not in layers:
            raise unknown("layer in options:", name, layers)
        if not isinstance(given, Mapping):
            raise UsageError(f"options of {name} must be a dict of options, not {given!r}")
    return [(name, dict(options.get(name, {}))) for name in layers]


@register("stack")
class Stack(MemoryCore[tuple[Any, ...]]):
    """Stack: `layers` residual pre-norm blocks of the core named `core`, or of different cores.

    Every block has width `output_size`. A linear map comes first if `input_size` differs. The state
    is the tuple of the blocks' states. With a number of `layers`, all blocks have the same
    `options`. `layers` may also list the names of cores from the input on, such as
    `["s5", "transformer_xl"]`; then `core` is not used, and `options` are by name of core:
    `{"s5": {"ssm_size": 64}}`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        core: str = "gru",
        layers: int | list[str] = 2,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(input_size, output_size)
        width = self.output_size
        self.embed = linear_or_identity(self.input_size, width)
        blocks = _blocks(core, layers, options or {})
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in blocks)
        self.blocks = nn.ModuleList(
            registry.make(name, input_size=width, output_size=width, **given)
            for name, given in blocks
        )
        # A block's NaN reaches the blocks above it.
        self.forgets_nonfinite = all(block.forgets_nonfinite for block in self.cores())
        self.claims_length = all(block.claims_length for block in self.cores())
        self.smooth = all(block.smooth for block in self.cores())

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(block.initial_state(batch_size) for block in self.cores())

    def update(
        self, x: Float[Tensor, "B I"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "B O"], tuple[Any, ...]]:
        x, states = self.embed(x), []
        for norm, block, s in zip(self.norms, self.cores(), state, strict=True):
            y, s = block.update(norm(x), s)
            x = x + y
            states.append(s)
        return x, tuple(states)

    def scan(
        self, x: Float[Tensor, "B T I"], state: tuple[Any, ...], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], tuple[Any, ...]]:
        return self.scan_blocks(lambda block, *row: block.scan(*row), x, state, start)

    def scan_blocks(
        self,
        scan: Callable[..., tuple[Tensor, Any]],
        x: Float[Tensor, "B T I"],
        state: tuple[Any, ...],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T O"], tuple[Any, ...]]:
        """`scan`, with `scan(block, x, state, start)` as the scan of each block."""
        x, states = self.embed(x), []
        for norm, block, s in zip(self.norms, self.cores(), state, strict=True):
            y, s = scan(block, norm(x), s, start)
            x = x + y
            states.append(s)
        return x, tuple(states)

    def cores(self) -> list[MemoryCore[Any]]:
        """The blocks' cores, from the input on."""
        return list(self.blocks)  # type: ignore[arg-type]
