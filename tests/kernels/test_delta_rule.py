"""The delta rule: its definition, published values, and the property that writes replace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from rlmem.kernels import delta_rule
from rlmem.kernels.delta_rule import delta_rule_reference, ops, torch_form
from tests.golden import Golden

HEADS, K, V = 2, 4, 5


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor | None
    state: Tensor | None
    start: Tensor | None

    def of(self, dtype: torch.dtype) -> Inputs:
        return Inputs(*(None if x is None else x.to(dtype) for x in self[:6]), self.start)


def make(
    time: int,
    dtype: torch.dtype = torch.float64,
    *,
    rows: int = 2,
    heads: int = HEADS,
    size: tuple[int, int] = (K, V),
    writes: int = 0,
    decay: bool = True,
    start: tuple[int, ...] | None = (3,),
) -> Inputs:
    """Unit keys, beta in (0, 2); `start` lists starts of the first row; others have none."""
    each = (rows, time, *([writes] if writes else []), heads)
    q = F.normalize(torch.randn(rows, time, heads, size[0], dtype=dtype), dim=-1)
    k = F.normalize(torch.randn(*each, size[0], dtype=dtype), dim=-1)
    starts = None
    if start is not None:
        starts = torch.zeros(rows, time, dtype=torch.bool)
        starts[0, [t for t in start if -time <= t < time]] = True
    return Inputs(
        q,
        k,
        torch.randn(*each, size[1], dtype=dtype),
        2 * torch.rand(each, dtype=dtype),
        -3 * torch.rand(rows, time, heads, dtype=dtype) if decay else None,
        torch.randn(rows, heads, *size, dtype=dtype),
        starts,
    )


def results(rule: Callable[..., Any], x: Inputs, grads: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Outputs, last state, and the gradients for all given inputs."""
    leaves = [None if each is None else each.detach().requires_grad_() for each in x[:6]]
    o, last = rule(*leaves, x.start)
    wrt = [each for each in leaves if each is not None]
    return [o.detach(), last.detach(), *torch.autograd.grad((o, last), wrt, grads)]


def compare(x: Inputs, tolerance: float = 1e-10, rule: Callable[..., Any] = delta_rule) -> None:
    """Compare with the definition in float64, relative to the largest entry of each result."""
    o, last = rule(*x)
    grads = torch.randn_like(o), torch.randn_like(last)
    want = results(delta_rule_reference, x.of(torch.float64), tuple(g.double() for g in grads))
    for got, exact in zip(results(rule, x, grads), want, strict=True):
        assert got.shape == exact.shape
        limit = tolerance * max(1.0, exact.abs().max().item())
        assert (got - exact).abs().max().item() <= limit


C = torch_form.CHUNK
# None; first; last; two in a row; inside a chunk, at its border and next to it; every step.
STARTS = [None, (), (0,), (-1,), (4, 5), (C - 1, C, C + 1, 2 * C + 3), tuple(range(2 * C + 5))]


@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("decay", [False, True])
def test_outputs_and_gradients(start: tuple[int, ...] | None, decay: bool) -> None:
    for time in (1, 2, 7, C, C + 1, 2 * C + 5):
        compare(make(time, decay=decay, start=start))


@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("decay", [False, True])
def test_several_writes_per_step(writes: int, decay: bool) -> None:
    for time, start in product((1, 3, C + 3), [None, (0,), (2, 3), (C,)]):
        compare(make(time, writes=writes, decay=decay, start=start))


def test_one_write_per_step_equals_the_plain_rule() -> None:
    x = make(9, writes=1)
    plain = x._replace(k=x.k[:, :, 0], v=x.v[:, :, 0], beta=x.beta[:, :, 0])
    torch.testing.assert_close(delta_rule(*x), delta_rule(*plain), rtol=0, atol=0)


def test_small_blocks_of_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 3 * 2 * HEADS * K * C):
        monkeypatch.setattr(torch_form, "BLOCK", block)
        compare(make(7 * C + 3, start=(5, 3 * C, 6 * C + 1)))


def test_float32_and_bfloat16() -> None:
    x = make(150, torch.float32, size=(16, 8), start=(7, 40))
    compare(x, 2e-5)
    narrow = x.of(torch.bfloat16)
    o, last = delta_rule(*narrow)
    assert (o.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    want, want_last = delta_rule_reference(*narrow.of(torch.float64))
    assert (o - want).abs().max() <= 2**-8 * want.abs().max()
    torch.testing.assert_close(last.double(), want_last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast_has_no_effect(dtype: torch.dtype) -> None:
    x = make(20, dtype)
    grads = torch.randn(2, 20, HEADS, V).to(dtype), torch.randn(2, HEADS, K, V).to(dtype)
    want = results(delta_rule, x, grads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(delta_rule, x, grads)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["delta", "gated_delta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_golden_vectors(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name, dtype)
    leaves = golden.leaves("in", "state0")
    q, k, v, beta = (leaves[f"in.{key}"] for key in ("q", "k", "v", "beta"))
    o, last = delta_rule(
        q * K**-0.5, k, v, beta, leaves.get("in.g"), leaves["state0.S"], golden["start"]
    )
    golden.check("out.o", o)
    golden.check("state.S", last)
    golden.check_gradients(o, leaves)


def test_a_second_write_at_a_key_replaces_the_first() -> None:
    """A write does not change the values at orthogonal keys."""
    keys = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    values = torch.randn(12, V, dtype=torch.float64)
    at = [0, 1, 2, 3, 4, 5, 6, 7, 2, 5, 2, 0]  # the last write at 2 is the eleventh
    k, ones = keys[at][None, :, None], torch.ones(1, 12, 1, dtype=torch.float64)
    o, state = delta_rule(k, k, values[None, :, None], ones)
    torch.testing.assert_close(o[0, :, 0], values)
    kept = {key: t for t, key in enumerate(at)}
    for key, t in kept.items():
        torch.testing.assert_close(keys[key] @ state[0, 0], values[t])


def test_beta_of_two_flips_the_sign() -> None:
    """A reflection: after n writes of zero at a key, the stored value has the sign (-1)^n."""
    k = F.normalize(torch.randn(4, dtype=torch.float64), dim=0).expand(1, 2 * C + 3, 1, 4)
    held = torch.randn(V, dtype=torch.float64)
    state = torch.einsum("k,v->kv", k[0, 0, 0], held)[None, None]
    zeros, two = k.new_zeros(1, 2 * C + 3, 1, V), k.new_full((1, 2 * C + 3, 1), 2.0)
    o, _ = delta_rule(k, k, zeros, two, None, state)
    signs = (-1.0) ** torch.arange(1, 2 * C + 4)
    torch.testing.assert_close(o[0, :, 0], signs[:, None] * held)


def test_two_reflections_per_step_are_a_rotation() -> None:
    """A rotation by twice the angle between the keys; one write per step cannot rotate."""
    angle = torch.tensor(torch.pi / 5, dtype=torch.float64)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    second = torch.stack([angle.cos(), angle.sin()])
    time = 20
    k = torch.stack([first, second]).expand(1, time, 2, 2)[:, :, :, None]
    beta, zeros = k.new_full((1, time, 2, 1), 2.0), k.new_zeros(1, time, 2, 1, 1)
    q = first.expand(1, time, 1, 2)
    o, _ = delta_rule(q, k, zeros, beta, None, first.reshape(1, 1, 2, 1))
    turns = 2 * angle * torch.arange(1, time + 1)
    torch.testing.assert_close(o[0, :, 0, 0], turns.cos())


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("writes", [0, 2])
def test_gradcheck(decay: bool, writes: int) -> None:
    x = make(C + 2, rows=1, heads=1, size=(2, 3), writes=writes, decay=decay, start=(2, C))
    leaves = [each.requires_grad_() for each in x[:6] if each is not None]

    def rule(*each: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, beta, *rest = each
        return delta_rule(q, k, v, beta, rest[0] if decay else None, rest[-1], x.start)

    assert gradcheck(rule, leaves)


@pytest.mark.parametrize("at", [0, 1, 5, C, C + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nothing_crosses_a_start(at: int, dtype: torch.dtype) -> None:
    """Neither values forward nor gradients backward, to the last bit."""
    x = make(2 * C, dtype, rows=1, start=(at,))
    other = make(2 * C, dtype, rows=1, start=(at,))
    mixed = [
        torch.cat([b[:, :at], a[:, at:]], dim=1) for a, b in zip(x[:5], other[:5], strict=True)
    ]
    mixed[4][:, at] = -777.0  # at a start the decay is not read
    grads = torch.randn(1, 2 * C, HEADS, V).to(dtype), torch.randn(1, HEADS, K, V).to(dtype)
    grads[0][:, :at] = 0
    want = results(delta_rule, x, grads)
    got = results(delta_rule, Inputs(*mixed, other.state * 1e6, x.start), grads)
    assert torch.equal(got[0][:, at:], want[0][:, at:])
    assert torch.equal(got[1], want[1])
    for g, w in zip(got[2:7], want[2:7], strict=True):
        assert torch.equal(g[:, at:], w[:, at:])
        assert not g[:, :at].any()
    assert not got[6][:, at].any()
    assert not got[7].any()


def test_long_rows_with_extreme_gates_stay_finite() -> None:
    """Decays from e^-50 to 1 and extreme betas, 10,000 steps: nothing overflows."""
    time = 10_000
    x = make(time, torch.float32, rows=1, size=(4, 4), start=(17, 5000))
    ends = torch.tensor([-50.0, 50.0])[torch.randint(2, (2, 1, time, HEADS))]
    x = x._replace(beta=2 * ends[0].sigmoid(), g=-16 * F.softplus(ends[1]))
    grads = torch.randn(1, time, HEADS, 4), torch.randn(1, HEADS, 4, 4)
    for each in results(delta_rule, x, grads):
        assert each.isfinite().all()
    o, _ = delta_rule(*x)
    want, _ = delta_rule_reference(*x.of(torch.float64))
    assert (o - want).abs().max() <= 1e-4 * want.abs().max()


def test_small_decays_next_to_extreme_ones_keep_their_precision() -> None:
    x = make(C, torch.float32, start=None)
    g = x.g.clone()
    g[:, :3] = -5000.0
    compare(x._replace(g=g), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("decay", [False, True])
def test_opcheck(dtype: torch.dtype, decay: bool) -> None:
    x = make(C + 3, dtype, decay=decay)
    leaves = [None if each is None else each.requires_grad_() for each in x[:6]]
    torch.library.opcheck(ops.rule, (*leaves, x.start))
    plain = [None if each is None else each.detach() for each in leaves]
    found = ops.rule(*plain, x.start)
    arguments = (*found[:2], *plain, x.start, *found)
    torch.library.opcheck(ops.rule_backward, arguments)


@pytest.mark.parametrize("mapped", [(0,), (1, 2), (4,), (5,), (6,), tuple(range(7))], ids=str)
@pytest.mark.parametrize("decay", [False, True])
def test_vmap(mapped: tuple[int, ...], decay: bool) -> None:
    """Over single arguments and several at once; outputs and gradients."""
    each = [make(5, decay=decay, start=(i,)) for i in range(3)]
    dims = tuple(1 if i in mapped and each[0][i] is not None else None for i in range(7))
    if not any(d is not None for d in dims):
        return
    given = [
        each[0][i] if d is None else torch.stack([x[i] for x in each], dim=1)
        for i, d in enumerate(dims)
    ]
    leaves = [x.requires_grad_() if x is not None and x.is_floating_point() else x for x in given]
    got = torch.vmap(delta_rule, dims)(*leaves)
    apart = [
        delta_rule(*(x if d is None else x[:, i] for x, d in zip(leaves, dims, strict=True)))
        for i in range(3)
    ]
    want = tuple(map(torch.stack, zip(*apart, strict=True)))
    torch.testing.assert_close(got, want)
    wrt = [x for x in leaves if x is not None and x.requires_grad]
    weights = tuple(torch.randn_like(x) for x in want)
    grads = [torch.autograd.grad(out, wrt, weights) for out in (got, want)]
    torch.testing.assert_close(*grads)


X = make(5, torch.float32, writes=2)
PLAIN = make(5, torch.float32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (PLAIN._replace(q=PLAIN.q[0]), r"q must be \[B, T, H, K\], .* not \[5, 2, 4\]"),
        (PLAIN._replace(v=PLAIN.v[..., 0]), r"v must be .* not \[2, 5, 2\]"),
        (PLAIN._replace(k=X.k), r"k must be \[2, 5, 2, 4\], not \[2, 5, 2, 2, 4\]"),
        (X._replace(k=X.k[..., :3]), r"k must be \[2, 5, 2, 2, 4\], not \[2, 5, 2, 2, 3\]"),
        (X._replace(beta=PLAIN.beta), r"beta must be \[2, 5, 2, 2\], not \[2, 5, 2\]"),
        (X._replace(g=X.beta), r"g must be \[2, 5, 2\], not \[2, 5, 2, 2\]"),
        (X._replace(state=X.state[:1]), r"state must be \[2, 2, 4, 5\], not \[1, 2, 4, 5\]"),
        (X._replace(start=X.start[:, :4]), r"start must be \[2, 5\], not \[2, 4\]"),
        (X._replace(start=X.start.int()), "start must be torch.bool, not torch.int32"),
        (X._replace(q=X.q.half()), r"q is torch.float16; allowed are float32, float64, bfloat16"),
        (X._replace(k=X.k.to("meta")), r"on one device, not .*'k': 'meta'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(wrong: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delta_rule(*wrong)
