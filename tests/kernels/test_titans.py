"""Memory that learns at test time: chunks against the definition, the definition against published
values, and the requirements on an operator."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from rlmem.kernels import titans
from rlmem.kernels.titans import Learned, Rates, Rule, ops, recall, titans_reference
from rlmem.kernels.titans.reference import surprise
from rlmem.kernels.titans.rule import cut
from tests.golden import Golden

FORMS = {"chunks": titans, "reference": titans_reference}


class Given:
    """Arguments of the operator, with nonzero states and starts at random steps."""

    def __init__(
        self,
        time: int,
        rows: int = 3,
        heads: int = 2,
        sizes: tuple[int, ...] = (4, 8, 4),
        dtype: torch.dtype = torch.float64,
    ) -> None:
        def randn(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, dtype=dtype)).requires_grad_()

        tokens = (rows, time, heads)
        shapes = [(heads, *pair) for pair in pairwise(sizes)]
        self.q, self.k, self.v = (randn(*tokens, sizes[i]) for i in (0, 0, -1))
        # With larger steps and keys this long, learning would diverge.
        self.rates = Rates(
            *(
                (scale * torch.rand(tokens, dtype=dtype)).requires_grad_()
                for scale in (0.1, 1, 1, 1, 1)
            )
        )
        self.first = tuple(randn(*shape, scale=0.5) for shape in shapes)
        parts = [tuple(randn(rows, *shape, scale=0.5) for shape in shapes) for _ in range(3)]
        self.state = Learned(*parts, torch.tensor([0, 5, 18])[:rows])
        self.start = torch.zeros(rows, time, dtype=torch.bool)
        for row, at in ((0, 0), (0, 5), (0, 6), (2, 3), (2, time - 1)):
            if row < rows and at < time:
                self.start[row, at] = True

    def leaves(self) -> list[Tensor]:
        matrices = (*self.first, *self.state.weight, *self.state.momentum, *self.state.anchor)
        return [self.q, self.k, self.v, *self.rates, *matrices]

    def __iter__(self) -> Any:
        return iter((self.q, self.k, self.v, self.rates, self.first, self.state, self.start))


def floats(y: Tensor, state: Learned) -> list[Tensor]:
    return [y, *ops.flatten_state(state)]


def results(form: Any, given: Given, rule: Rule) -> list[Tensor]:
    y, state = form(*given, rule)
    out = floats(y, state)
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in out)
    grads = torch.autograd.grad(loss, given.leaves(), materialize_grads=True, allow_unused=True)
    return [*out, state.age, *grads]


@pytest.mark.parametrize("limit", [None, 0.7])
@pytest.mark.parametrize("chunk", [1, 3, 8, 50])
@pytest.mark.parametrize("sizes", [(4, 3), (3, 5, 4)], ids=str)
@pytest.mark.parametrize("time", [1, 8, 37])
def test_chunks_equal_the_definition(time, sizes, chunk, limit):
    given = Given(time, sizes=sizes)
    got, want = (results(form, given, Rule(chunk, limit)) for form in (titans, titans_reference))
    torch.testing.assert_close(got, want)


def test_autocast_has_no_effect():
    given = Given(20, dtype=torch.float32)
    want = results(titans, given, Rule(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(titans, given, Rule(4))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", ["linear", "mlp", "linear_chunk", "mlp_chunk"])
def test_published_values(name, dtype, form):
    golden = Golden(f"titans_{name}", dtype)
    leaves = golden.leaves("in", "param", "state0")
    layers = [key for key in ("W1", "W2") if f"param.{key}" in leaves]
    q, k, v, theta, eta, alpha = (
        leaves[f"in.{key}"][:, :, None] for key in ("q", "k", "v", "theta", "eta", "alpha")
    )
    weight = tuple(leaves[f"state0.{key}"][:, None] for key in layers)
    momentum = tuple(leaves[f"state0.S_{key}"][:, None] for key in layers)
    first = tuple(leaves[f"param.{key}"][None] for key in layers)
    state = Learned(weight, momentum, weight, torch.zeros(3, dtype=torch.int64))
    chunk = int(golden["const.chunk"]) if "const.chunk" in golden else 1
    rates = Rates(theta, eta, alpha)
    y, final = FORMS[form](q, k, v, rates, first, state, golden["start"], Rule(chunk))
    golden.check("out.y", y[:, :, 0])
    for i, key in enumerate(layers):
        golden.check(f"state.{key}", final.weight[i][:, 0])
        golden.check(f"state.S_{key}", final.momentum[i][:, 0])
        if chunk > 1:
            golden.check(f"state.anchor_{key}", final.anchor[i][:, 0])
    if chunk > 1:
        assert torch.equal(final.age % chunk, golden["state.chunk_pos"])
    golden.check_gradients(y[:, :, 0], leaves)


@pytest.mark.parametrize("sizes", [(2, 1), (2, 1, 2)], ids=str)
def test_gradcheck(sizes):
    given = Given(4, rows=1, heads=1, sizes=sizes)
    given.start[0, 2] = True

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        q, k, v, *rest = leaves
        layers = len(sizes) - 1
        parts = [tuple(rest[i : i + layers]) for i in range(5, len(rest), layers)]
        state = Learned(*parts[1:], given.state.age)
        return tuple(
            floats(*titans(q, k, v, Rates(*rest[:5]), parts[0], state, given.start, Rule(2)))
        )

    assert gradcheck(function, given.leaves())


def test_the_surprise_is_the_gradient_of_the_loss():
    for sizes in ((3, 2), (3, 5, 2)):
        given = Given(1, sizes=sizes)
        key, value, weight = given.k[:, 0], given.v[:, 0], given.state.weight
        loss = (recall(weight, key) - value).square().sum()
        factors = surprise(Rule(), weight, key, value, torch.ones(3, 2))
        for w, read, wrong in zip(weight, factors[::2], factors[1::2], strict=True):
            (want,) = torch.autograd.grad(loss, w, retain_graph=True)
            torch.testing.assert_close(read[..., :, None] * wrong[..., None, :], want)


def test_a_linear_memory_with_step_size_one_half_stores_the_last_value():
    given = Given(4, rows=1, heads=1, sizes=(3, 3))
    key = F.normalize(torch.randn(3, dtype=torch.float64), dim=0)
    given.k = given.q = key.expand(1, 4, 1, 3)
    one = torch.ones(1, 4, 1, dtype=torch.float64)
    given.rates = Rates(one / 2, 0 * one, 0 * one)
    y, _ = titans(*given)
    torch.testing.assert_close(y, given.v)


def test_a_limit_shortens_only_long_errors():
    errors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(cut(errors, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    cut(errors, 1.0).sum().backward()
    assert errors.grad.isfinite().all()


@pytest.mark.parametrize("chunk", [6, 32])
def test_long_rows_stay_finite_within_a_limit(chunk):
    given = Given(10_000, rows=1, dtype=torch.float32)
    with torch.no_grad():
        y, state = titans(*given, Rule(chunk, 1.0))
    assert all(each.isfinite().all() for each in floats(y, state))


def test_an_earlier_episode_has_no_effect():
    given = Given(40)
    given.start[:, 17] = True
    y, state = titans(*given, Rule(8))
    loss = y[:, 17:].square().sum() + sum(w.square().sum() for w in state.weight)
    grads = torch.autograd.grad(loss, [given.q, given.k, given.v, *given.state.weight])
    assert all(grad[:, 17:].any() and not grad[:, :17].any() for grad in grads[:3])
    assert not grads[3].any()


def test_opcheck():
    given = Given(9)
    age, start = given.state.age, given.start
    torch.library.opcheck(ops.learn_row, (given.leaves(), age, start, *Rule(4)))
    fixed = [each.detach() for each in given.leaves()]
    with torch.no_grad():
        grads = [torch.randn_like(each) for each in ops.learn_row(fixed, age, start, *Rule(4))]
    torch.library.opcheck(ops.learn_row_backward, (grads, fixed, age, start, *Rule(4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 4, 2)}, r"q must be \[B, T, H, D\]"),
        ({"k": torch.zeros(3, 4, 2, 5)}, r"k must be \[3, 4, 2, 4\], not \[3, 4, 2, 5\]"),
        ({"v": torch.zeros(3, 4, 1, 4)}, r"v must be"),
        ({"start": torch.zeros(3, 5, dtype=torch.bool)}, r"start must be \[3, 4\]"),
        ({"start": torch.zeros(3, 4)}, "start must be torch.bool"),
        ({"first": (torch.zeros(2, 4, 8),) * 3}, "one matrix or two, not 3"),
        ({"first": (torch.zeros(2, 4, 8), torch.zeros(2, 7, 4))}, r"first\[1\] must be"),
        ({"chunk": 0}, "chunk and limit must be positive"),
        ({"limit": -1.0}, "chunk and limit must be positive"),
        ({"q": torch.zeros(3, 4, 2, 4, device="meta")}, "one device"),
    ],
)
def test_bad_arguments_raise_an_error(change, message):
    given = Given(4)
    chunk, limit = change.pop("chunk", 2), change.pop("limit", None)
    for name, value in change.items():
        setattr(given, name, value)
    with pytest.raises(ValueError, match=message):
        titans(*given, Rule(chunk, limit))
