"""Transformer-XL's layer against the authors' code; the window, the ring buffer, the gates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from rlmem import cores
from rlmem.cores.attention import Cache, WindowAttention, rotate, sinusoids
from rlmem.errors import UsageError
from rlmem.kernels.episodes import next_age
from tests.cores.common import DTYPES
from tests.golden import Golden, under

MEMORY, HEADS, WIDTH = 16, 2, 8


class Layer(torch.nn.Module):
    """The attention over a row, with a cache made from the layer's past inputs `mems`."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.attention = WindowAttention(WIDTH, HEADS, memory, "relative")

    def forward(self, how: str, w: Tensor, mems: Tensor, valid: Tensor, start: Tensor):
        attention, count = self.attention, valid.sum(1)
        cache = self.cache(mems, count)
        if how == "scan":
            return attention.scan(w, cache, count, start)
        outputs = []
        for x, begins in zip(w.unbind(1), start.unbind(1), strict=True):
            keep = ~begins[:, None, None, None]
            cache, count = Cache(*(torch.where(keep, leaf, 0) for leaf in cache)), count * ~begins
            y, cache = attention.step(x, cache, count)
            outputs.append(y)
            count = count + 1
        return torch.stack(outputs, 1), cache

    def cache(self, mems: Tensor, count: Tensor) -> Cache:
        """A ring buffer with the last `count` of `mems` as the first steps of an episode."""
        attention = self.attention
        slots = torch.arange(attention.memory)
        index = (mems.shape[1] - count[:, None] + slots).clamp(0, mems.shape[1] - 1)
        _, key, value = attention._project(mems, mems.dtype)
        filled = (slots < count[:, None])[..., None, None]
        index = index[..., None, None].expand(-1, -1, *key.shape[2:])
        return Cache(*(torch.where(filled, each.gather(1, index), 0) for each in (key, value)))


def params(p: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "attention.qkv.weight": p["qkv_net.weight"],
        "attention.relative.weight": p["r_net.weight"],
        "attention.out.weight": p["o_net.weight"],
        "attention.content_bias": p["r_w_bias"],
        "attention.position_bias": p["r_r_bias"],
    }


def evaluate(golden: Golden, how: str, memory: int):
    leaves = golden.leaves("in", "param", "state0")
    mems = leaves["state0.mems"]
    valid = torch.ones(mems.shape[:2], dtype=torch.bool)
    if "state0.mems_valid" in golden:
        valid = golden["state0.mems_valid"]
    given = (how, leaves["in.w"], mems, valid, golden["start"])
    layer = Layer(memory).to(golden.dtype)
    y, cache = functional_call(layer, params(under("param", leaves)), given)
    return leaves, layer, y, cache


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("how", ["scan", "step"])
def test_a_window_over_all_steps_equals_the_authors_layer(how, dtype):
    golden = Golden("transformer_xl", dtype)
    leaves, _, y, _ = evaluate(golden, how, memory=MEMORY + 37)
    golden.check("out.attn", y)
    golden.check_gradients(y, leaves)


@pytest.mark.parametrize("how", ["scan", "step"])
def test_a_window_shorter_by_one_equals_the_authors_same_length(how):
    golden = Golden("transformer_xl")
    _, _, y, _ = evaluate(golden, how, memory=MEMORY)
    assert (y - golden["out.attn_same_length"]).abs().max() > 1e-3
    mems = golden["state0.mems"][:, 1:]
    layer = Layer(MEMORY - 1).double()
    valid = torch.ones(mems.shape[:2], dtype=torch.bool)
    given = (how, golden["in.w"], mems, valid, golden["start"])
    p = params({key: golden[f"param.{key}"] for key in PARAMS})
    golden.check("out.attn_same_length", functional_call(layer, p, given)[0])


PARAMS = ("qkv_net.weight", "r_net.weight", "o_net.weight", "r_w_bias", "r_r_bias")


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("how", ["scan", "step"])
def test_packed_rows_attend_only_to_their_own_episode(how, dtype):
    golden = Golden("transformer_xl_episode", dtype)
    leaves, _, y, cache = evaluate(golden, how, MEMORY)
    golden.check("out.attn", y)
    golden.check_gradients(y, leaves)
    # The ring buffer holds the projections of the authors' memory.
    count = next_age(golden["state0.mems_valid"].sum(1), golden["start"])
    valid = golden["state.mems_valid"]
    assert torch.equal(valid.sum(1), count.clamp(max=MEMORY))
    order = (count[:, None] + torch.arange(MEMORY)) % MEMORY
    p = params(under("param", leaves))
    projected = golden["state.mems"] @ p["attention.qkv.weight"].mT
    _, key, value = (part.unflatten(-1, (HEADS, -1)) for part in projected.split(WIDTH, dim=-1))
    for got, want in ((cache.key, key), (cache.value, value)):
        ordered = got.gather(1, order[..., None, None].expand_as(got))
        torch.testing.assert_close(ordered[valid], want[valid])
        assert not ordered[~valid].any()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_positions_of_the_norms_are_the_authors(norm):
    golden = Golden("transformer_xl_episode")
    core = cores.make(
        "transformer_xl", input_size=WIDTH, heads=HEADS, memory=MEMORY, norm=norm
    ).double()
    block = core.blocks[0]
    p = params({key: golden[f"param.{key}"] for key in PARAMS})
    p |= {f"attention_norm.{k}": golden[f"param.layer_norm.{k}"] for k in ("weight", "bias")}
    block.load_state_dict(block.state_dict() | p)
    if norm == "pre":
        core.blocks[0].ff[2].weight.data.zero_()
        core.blocks[0].ff[2].bias.data.zero_()
        mems = torch.nn.functional.layer_norm(
            golden["state0.mems"], (WIDTH,), p["attention_norm.weight"], p["attention_norm.bias"]
        )
    else:
        block.ff_norm = torch.nn.Identity()
        block.join_ff = lambda x, y: x
        mems = golden["state0.mems"]
    layer = Layer(MEMORY).double()
    layer.attention = block.attention
    count = golden["state0.mems_valid"].sum(1)
    state = core.initial_state(3)._replace(layers=(layer.cache(mems, count),), age=count)
    y, _ = core.scan(golden["in.w"], state, golden["start"])
    golden.check(f"out.{norm}ln", y)


def test_the_sinusoids_equal_the_authors():
    golden = Golden("transformer_xl")
    distance = torch.arange(MEMORY + 36, -1, -1)
    torch.testing.assert_close(
        sinusoids(distance, WIDTH).double(), golden["const.pos_emb"], atol=1e-5, rtol=0
    )


def test_rotated_products_depend_only_on_the_distance():
    q, k = torch.randn(2, 1, 3, 8, dtype=torch.float64)
    place = torch.arange(5)
    products = torch.einsum(
        "thd,jhd->htj", *(rotate(each.expand(5, -1, -1), place) for each in (q, k))
    )
    for offset in range(-4, 5):
        diagonal = products.diagonal(offset, 1, 2)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal))
    assert (products[:, 0, 1] - products[:, 0, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("position", ["relative", "absolute", "rope", "none"])
@pytest.mark.parametrize("name", ["transformer_xl", "gtrxl"])
def test_scan_equals_a_loop_over_step_with_every_position(name, position):
    options = {"heads": 2, "memory": 5, "layers": 2, "position": position}
    core = cores.make(name, input_size=6, output_size=8, **options).double()
    x = torch.randn(3, 33, 6, dtype=torch.float64)
    start = torch.rand(3, 33) < 0.1
    state = core.initial_state(3)
    y, final = core.scan(x, state, start)
    outputs = []
    for t in range(33):
        out, state = core.step(x[:, t], state, start[:, t])
        outputs.append(out)
    torch.testing.assert_close(y, torch.stack(outputs, 1))
    torch.testing.assert_close(final, state)


@pytest.mark.parametrize("name", ["transformer_xl", "gtrxl", "ahn"])
def test_absolute_positions_are_sinusoids_added_to_the_inputs(name):
    options = {"heads": 2, "memory": 5}
    absolute, plain = (
        cores.make(name, input_size=8, position=position, **options).double()
        for position in ("absolute", "none")
    )
    plain.load_state_dict(absolute.state_dict())
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    start = torch.zeros(2, 12, dtype=torch.bool)
    start[0, 0] = start[1, 7] = True
    # The second row has had three steps.
    begun = torch.zeros(2, 3, 8, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bool)
    state = absolute.scan(begun[0], absolute.initial_state(2), begun[1])[1]
    times = [range(12), [*range(3, 10), *range(5)]]
    added = [
        [[math.sin(t * 1e4 ** (-i / 4)) for i in range(4)]
         + [math.cos(t * 1e4 ** (-i / 4)) for i in range(4)] for t in row]
        for row in times
    ]  # fmt: skip
    torch.testing.assert_close(
        absolute.scan(x, state, start)[0],
        plain.scan(x + torch.tensor(added, dtype=torch.float64), state, start)[0],
    )


def test_inputs_beyond_the_layers_windows_have_no_influence():
    core = cores.make("transformer_xl", input_size=4, heads=2, memory=3, layers=2).double()
    x = torch.randn(1, 20, 4, dtype=torch.float64, requires_grad=True)
    y, _ = core.scan(x, core.initial_state(1), torch.zeros(1, 20, dtype=torch.bool))
    (grad,) = torch.autograd.grad(y[:, 12].square().sum(), x)
    assert grad[0].any(-1).nonzero().flatten().tolist() == list(range(6, 13))


def test_a_gated_layer_is_initially_near_the_identity():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 16)
    start = torch.zeros(2, 9, dtype=torch.bool)

    def change(bias: float) -> float:
        core = cores.make("gtrxl", input_size=16, gate_bias=bias)
        y, _ = core.scan(x, core.initial_state(2), start)
        return ((y - x).norm() / x.norm()).item()

    assert change(20.0) < 1e-6
    assert change(2.0) < 0.5 < change(-5.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, "heads"),
        ({"memory": 0}, "memory"),
        ({"position": "sideways"}, "unknown position 'sideways'"),
        ({"norm": "none"}, "unknown norm 'none'"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("transformer_xl", input_size=8, **options)
