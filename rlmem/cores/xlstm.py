"""xLSTM: a stack of mLSTM and sLSTM blocks (Beck et al. 2024, arXiv 2405.04517, figures 10 and 11).

mLSTM block, in a projection wider than the residual stream:

    [u; g] = W_up LN(x),   c = silu(conv(u))
    q, k = blockdiag(c),  v = blockdiag(u),   h = norm(mLSTM(q, k, v))     gates from [q; k; v]
    x = x + W_down((h + skip c) silu(g))

sLSTM block, followed by an MLP:

    u = LN(x),   c = silu(conv(u)),   i, f = blockdiag(c),  z, o = blockdiag(u)
    x = x + norm(sLSTM(i, f, z, o)),   [a; b] = W_up LN(x),   x = x + W_down(gelu(a) b)

Both norms are per head; the cells are those of `mlstm.py` and `slstm.py`. Details that the figures
leave open (the inputs of the mLSTM's gates, the two residual parts of the sLSTM block, a last norm)
follow the authors' code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, linear_or_identity, register
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import split_heads
from rlmem.cores.mlstm import MLSTMCell, MLSTMState
from rlmem.cores.slstm import SLSTMCell, SLSTMState
from rlmem.errors import UsageError, positive
from rlmem.kernels import Linear


class BlockState(NamedTuple):
    """`window` [B, W-1, channels]: the convolution's last inputs; `cell`: the cell's state."""

    window: Tensor
    cell: Any


class BlockLinear(nn.Module):
    """A block-diagonal linear map without bias.

    Maps [*N, blocks D] to [*N, blocks, outputs D]: `outputs` results per block, concatenated.
    """

    def __init__(self, blocks: int, size: int, outputs: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, size, outputs * size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "*N W"]) -> Float[Tensor, "*N H G"]:
        return torch.einsum("...hd,hde->...he", split_heads(x, len(self.weight)), self.weight)


class MLSTMBlock(nn.Module):
    """The mLSTM block: a matrix memory inside a projection to `expand` times the width."""

    def __init__(self, width: int, expand: int, heads: int, qkv_block: int, conv_size: int) -> None:
        super().__init__()
        inner = positive("expand", expand) * width
        size = _divide("mlstm_heads", inner, heads)
        blocks = _divide("qkv_block", inner, qkv_block)
        self.norm = nn.LayerNorm(width)
        self.up = Linear(width, 2 * inner, bias=False)
        self.conv = ShortConv(inner, conv_size)
        self.qk = BlockLinear(blocks, qkv_block, 2)
        self.v = BlockLinear(blocks, qkv_block, 1)
        self.cell = MLSTMCell(heads, size, 3 * inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = Linear(inner, width, bias=False)

    def initial_state(self, zeros: Tensor) -> MLSTMState:
        return self.cell.initial_state(zeros)

    def update(
        self, x: Float[Tensor, "B W"], state: BlockState
    ) -> tuple[Float[Tensor, "B W"], BlockState]:
        u, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        c, window = self.conv.step(u, state.window)
        c = F.silu(c)
        h, cell = self.cell.step(*self._cell_inputs(u, c), state.cell)
        return x + self._output(h, c, gate), BlockState(window, cell)

    def scan(
        self, x: Float[Tensor, "B T W"], state: BlockState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T W"], BlockState]:
        u, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        c, window = self.conv.scan(u, state.window, start)
        c = F.silu(c)
        h, cell = self.cell.scan(*self._cell_inputs(u, c), state.cell, start)
        return x + self._output(h, c, gate), BlockState(window, cell)

    def _cell_inputs(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and the gates' input."""
        q, k = (each.flatten(-2) for each in self.qk(c).chunk(2, dim=-1))
        v = self.v(u.to(c.dtype)).flatten(-2)
        return q, k, v, torch.cat([q, k, v], dim=-1)

    def _output(self, h: Tensor, c: Tensor, gate: Tensor) -> Tensor:
        return self.down((h + self.skip * c) * F.silu(gate))


class SLSTMBlock(nn.Module):
    """The sLSTM block: a scalar memory with recurrent weights, then a GeGLU MLP of 4/3 width."""

    def __init__(self, width: int, heads: int, conv_size: int) -> None:
        super().__init__()
        size = _divide("slstm_heads", width, heads)
        hidden = -(-4 * width // 3)
        self.norm = nn.LayerNorm(width)
        self.conv = ShortConv(width, conv_size)
        self.if_ = BlockLinear(heads, size, 2)
        self.zo = BlockLinear(heads, size, 2)
        self.cell = SLSTMCell(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def initial_state(self, zeros: Tensor) -> SLSTMState:
        leaf = zeros.new_zeros(zeros.shape[0], self.conv.channels)
        return SLSTMState(leaf, leaf, leaf, leaf)

    def update(
        self, x: Float[Tensor, "B W"], state: BlockState
    ) -> tuple[Float[Tensor, "B W"], BlockState]:
        u = self.norm(x)
        c, window = self.conv.step(u, state.window)
        h, cell = self.cell.step(self._gates(u, c), state.cell)
        return self._mlp(x + h), BlockState(window, cell)

    def scan(
        self, x: Float[Tensor, "B T W"], state: BlockState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T W"], BlockState]:
        u = self.norm(x)
        c, window = self.conv.scan(u, state.window, start)
        h, cell = self.cell.scan(self._gates(u, c), state.cell, start)
        return self._mlp(x + h), BlockState(window, cell)

    def _gates(self, u: Tensor, c: Tensor) -> Float[Tensor, "*N H G"]:
        return torch.cat([self.if_(F.silu(c)), self.zo(u.to(c.dtype))], dim=-1)

    def _mlp(self, x: Tensor) -> Tensor:
        a, b = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.gelu(a) * b)


def _divide(option: str, width: int, parts: int) -> int:
    """`width` divided by `parts`; a `UsageError` if that is not an integer."""
    if width % positive(option, parts):
        raise UsageError(f"{option} must divide the width {width}, not {parts}")
    return width // parts


@register("xlstm")
class XLSTM(MemoryCore[tuple[BlockState, ...]]):
    """xLSTM: a stack of mLSTM and sLSTM blocks (Beck et al. 2024).

    `blocks` lists the blocks from the input on: "m" for mLSTM, "s" for sLSTM. The state is the
    tuple of the blocks' states. A linear map comes first if `input_size` differs from
    `output_size`.
    """

    forgets_nonfinite = False  # as in `mlstm`

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        blocks: str = "ms",
        mlstm_heads: int = 4,
        slstm_heads: int = 2,
        expand: int = 2,
        qkv_block: int = 4,
        conv_size: int = 4,
    ) -> None:
        super().__init__(input_size, output_size)
        if not blocks or set(blocks) - {"m", "s"}:
            raise UsageError(f'blocks must be letters "m" and "s", such as "ms", not {blocks!r}')
        width = self.output_size
        self.embed = linear_or_identity(self.input_size, width)
        self.blocks = nn.ModuleList(
            MLSTMBlock(width, expand, mlstm_heads, qkv_block, conv_size)
            if kind == "m"
            else SLSTMBlock(width, slstm_heads, conv_size)
            for kind in blocks
        )
        self.norm = nn.LayerNorm(width)

    def initial_state(self, batch_size: int) -> tuple[BlockState, ...]:
        return tuple(
            BlockState(
                self.zeros(batch_size, block.conv.size - 1, block.conv.channels),
                block.initial_state(self.zeros(batch_size)),
            )
            for block in self._blocks()
        )

    def update(
        self, x: Float[Tensor, "B I"], state: tuple[BlockState, ...]
    ) -> tuple[Float[Tensor, "B O"], tuple[BlockState, ...]]:
        x, states = self.embed(x), []
        for block, s in zip(self._blocks(), state, strict=True):
            x, s = block.update(x, s)
            states.append(s)
        return self.norm(x), tuple(states)

    def scan(
        self, x: Float[Tensor, "B T I"], state: tuple[BlockState, ...], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], tuple[BlockState, ...]]:
        x, states = self.embed(x), []
        for block, s in zip(self._blocks(), state, strict=True):
            x, s = block.scan(x, s, start)
            states.append(s)
        return self.norm(x), tuple(states)

    def _blocks(self) -> list[MLSTMBlock | SLSTMBlock]:
        return list(self.blocks)  # type: ignore[arg-type]
