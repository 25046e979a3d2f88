"""xLSTM: the stack against the paper's figures and equations, token by token, per episode."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem import tree
from rlmem.cores.xlstm import XLSTM, BlockLinear, MLSTMBlock, SLSTMBlock
from rlmem.errors import UsageError
from tests.cores.common import data, fresh, scan, some_starts


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    variance = x.var(correction=0)
    return (x - x.mean()) / torch.sqrt(variance + 1e-5) * weight + bias


def convolved(block: MLSTMBlock | SLSTMBlock, inputs: list[Tensor]) -> Tensor:
    """silu of the causal convolution at the last of an episode's `inputs`."""
    weight, total = block.conv.weight, block.conv.bias
    for j in range(min(len(inputs), weight.shape[1])):
        total = total + weight[:, -1 - j] * inputs[-1 - j]
    return total * torch.sigmoid(total)


def parts(linear: BlockLinear, x: Tensor, result: int) -> Tensor:
    """The `result`-th output of each block, concatenated."""
    blocks, size, _ = linear.weight.shape
    columns = slice(result * size, (result + 1) * size)
    each = [x[b * size : (b + 1) * size] @ linear.weight[b, :, columns] for b in range(blocks)]
    return torch.cat(each)


def mlstm_episode(block: MLSTMBlock, xs: list[Tensor]) -> list[Tensor]:
    cell, inner, outputs = block.cell, len(block.skip), []
    heads, size = cell.heads, cell.size
    C, n = torch.zeros(heads, size, size).double(), torch.zeros(heads, size).double()
    m = torch.zeros(heads).double()  # the authors' stabiliser, which scales the 1e-6 below
    seen: list[Tensor] = []
    for x in xs:
        up = block.up.weight @ layer_norm(x, block.norm.weight, block.norm.bias)
        seen.append(up[:inner])
        c = convolved(block, seen)
        q, k, v = parts(block.qk, c, 0), parts(block.qk, c, 1), parts(block.v, seen[-1], 0)
        gates = cell.gates.weight @ torch.cat([q, k, v]) + cell.gates.bias
        answers = []
        for h in range(heads):
            mine = slice(h * size, (h + 1) * size)
            write, forget = torch.exp(gates[h]), torch.sigmoid(gates[heads + h])
            key = k[mine] / math.sqrt(size)
            C[h] = forget * C[h] + write * torch.outer(key, v[mine])
            n[h] = forget * n[h] + write * key
            m[h] = torch.maximum(torch.log(forget) + m[h], gates[h])
            divisor = (n[h] @ q[mine]).abs().clamp(min=1) + 1e-6 * torch.exp(m[h])
            answer = C[h].T @ q[mine] / divisor
            answers.append(layer_norm(answer, cell.norm.weight[mine]))
        gate = up[inner:]
        mixed = (torch.cat(answers) + block.skip * c) * gate * torch.sigmoid(gate)
        outputs.append(x + block.down.weight @ mixed)
    return outputs


def slstm_episode(block: SLSTMBlock, xs: list[Tensor]) -> list[Tensor]:
    cell, width, outputs = block.cell, len(xs[0]), []
    heads, size = cell.heads, cell.size
    h, c, n = (torch.zeros(width).double() for _ in range(3))
    seen: list[Tensor] = []
    for x in xs:
        seen.append(layer_norm(x, block.norm.weight, block.norm.bias))
        smooth = convolved(block, seen)
        given = [
            parts(block.if_, smooth, 0),
            parts(block.if_, smooth, 1),
            parts(block.zo, seen[-1], 0),
            parts(block.zo, seen[-1], 1),
        ]
        raw = []
        for gate in range(4):
            recurrent = [
                h[k * size : (k + 1) * size] @ cell.R[k, :, gate * size : (gate + 1) * size]
                for k in range(heads)
            ]
            raw.append(given[gate] + torch.cat(recurrent) + cell.b[:, gate].flatten())
        i, f, z, o = raw
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        norm = [
            layer_norm(h[s], cell.norm.weight[s], cell.norm.bias[s])
            for s in (slice(k * size, (k + 1) * size) for k in range(heads))
        ]
        x = x + torch.cat(norm)
        up = block.up.weight @ layer_norm(x, block.mlp_norm.weight, block.mlp_norm.bias)
        a, b = up.chunk(2)
        outputs.append(x + block.down.weight @ (F.gelu(a) * b))
    return outputs


def episode(core: XLSTM, x: Tensor) -> Tensor:
    """The core's equations for one episode [T, I], in the paper's form: without stabiliser, with
    convolutions over the whole past."""
    xs = [core.embed(each) for each in x]
    for block in core.blocks:
        how = mlstm_episode if isinstance(block, MLSTMBlock) else slstm_episode
        xs = how(block, xs)
    return torch.stack([layer_norm(each, core.norm.weight, core.norm.bias) for each in xs])


def perturbed(**options: object) -> XLSTM:
    core = XLSTM(5, 6, **options).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": "m"},
        {"blocks": "s"},
        {"blocks": "msm", "mlstm_heads": 2, "slstm_heads": 3, "qkv_block": 6, "conv_size": 3},
        {"blocks": "sm", "expand": 1, "mlstm_heads": 1, "qkv_block": 2, "slstm_heads": 1},
    ],
    ids=lambda options: options["blocks"],
)
@torch.no_grad()
def test_the_stack_equals_its_equations_on_every_episode(options):
    core = perturbed(**options)
    x, start = torch.randn(3, 13, 5, dtype=torch.float64), some_starts("cpu")
    y, _ = core.scan(x, core.initial_state(3), start)
    for row in range(3):
        at = sorted({0, *start[row].nonzero().flatten().tolist(), 13})
        for begin, end in pairwise(at):
            torch.testing.assert_close(y[row, begin:end], episode(core, x[row, begin:end]))


def test_blocks_are_in_the_order_of_their_letters():
    core = XLSTM(5, 6, blocks="smm")
    assert [type(block) for block in core.blocks] == [SLSTMBlock, MLSTMBlock, MLSTMBlock]
    assert len(core.initial_state(2)) == 3


def test_windows_hold_only_the_current_episode():
    """A convolution's window has the inputs since the last start, and zeros before."""
    core = XLSTM(5, 6, blocks="ms").double()
    given = data(core)
    start = torch.zeros_like(given.start)
    start[0, -1] = start[1, -2] = True
    _, final = core.scan(given.x, given.state, start)
    for state in final:
        zero = (state.window == 0).all(-1)
        assert zero.tolist() == [[True, True, False], [True, False, False], [False] * 3]


def test_every_leaf_of_the_state_has_a_gradient():
    core = perturbed(blocks="ms")
    given = data(core)
    state = fresh(given.state)
    none = torch.zeros_like(given.start)
    y, _ = scan(core, given.x, state, none)
    leaves = list(tree.leaves(state))
    # The mLSTM's stabiliser has an influence only through the 1e-6 in the divisor.
    for leaf, gradient in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0, leaf.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "mx"}, "blocks must be letters"),
        ({"blocks": ""}, "blocks must be letters"),
        ({"mlstm_heads": 5}, "mlstm_heads must divide the width 16, not 5"),
        ({"slstm_heads": 3}, "slstm_heads must divide the width 8, not 3"),
        ({"qkv_block": 0}, "qkv_block must be an integer of at least 1"),
        ({"expand": 0}, "expand must be"),
        ({"conv_size": 0}, "conv_size must be"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        XLSTM(8, **options)
