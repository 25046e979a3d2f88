"""The GRU solved for all steps at once: states and gradients of the loop, and the error bound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rlmem.kernels.gated_rnn import newton_bound, newton_gru
from rlmem.kernels.gated_rnn.newton_bound import gru_error_bound
from rlmem.kernels.gated_rnn.newton_gru import Solution, gru_parallel
from tests.golden import Golden

Leaves = tuple[Tensor, Tensor, Tensor, Tensor]

both = pytest.mark.parametrize("diagonal", [False, True], ids=["newton", "quasi"])


def leaves(rows: int, time: int, size: int, scale: float = 1.0) -> Leaves:
    """projected, weight (`scale` times torch's initial weights), bias, h0."""
    bound = size**-0.5
    projected = 0.6 * torch.randn(rows, time, 3 * size).double()
    weight = torch.empty(3 * size, size).double().uniform_(-bound * scale, bound * scale)
    bias, h0 = torch.empty(3 * size).double().uniform_(-bound, bound), torch.randn(rows, size)
    each = projected, weight, bias, h0.double()
    projected, weight, bias, h0 = (x.requires_grad_() for x in each)
    return projected, weight, bias, h0


def starts(rows: int, time: int) -> Tensor:
    """Starts at adjacent steps, the first and the last one; none in row 1."""
    start = torch.zeros(rows, time, dtype=torch.bool)
    for t in (0, 3, 4, time - 1):
        start[0, min(t, time - 1)] = True
    start[2:] = torch.rand(rows, time)[2:] < 0.2
    return start


def loop(projected: Tensor, weight: Tensor, bias: Tensor, h: Tensor, start: Tensor) -> Tensor:
    """The equations of torch.nn.GRU, step by step."""
    states = []
    for t in range(projected.shape[1]):
        h = torch.where(start[:, t, None], 0, h)
        x_r, x_z, x_n = projected[:, t].chunk(3, dim=-1)
        h_r, h_z, h_n = (h @ weight.t() + bias).chunk(3, dim=-1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        h = (1 - z) * torch.tanh(x_n + r * h_n) + z * h
        states.append(h)
    return torch.stack(states, dim=1)


def with_gradients(h: Tensor, inputs: Leaves, grad: Tensor) -> list[Tensor]:
    return [h.detach(), *torch.autograd.grad(h, inputs, grad)]


@both
@pytest.mark.parametrize("time", [1, 2, 7, 50])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_states_and_gradients_equal_the_loop(diagonal, time, scale):
    inputs, start = leaves(3, time, 5, scale), starts(3, time)
    grad = torch.randn(3, time, 5).double()
    solution = gru_parallel(*inputs, start, diagonal=diagonal, tolerance=1e-13, max_iterations=60)
    assert not solution.sequential.any()
    assert solution.residual.max() <= 1e-13
    want = with_gradients(loop(*inputs, start), inputs, grad)
    got = with_gradients(solution.h, inputs, grad)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_golden_vectors(diagonal, dtype):
    golden = Golden("gru", dtype)
    given = golden.leaves("in", "param", "state0")
    w_ih, w_hh, b_ih, b_hh = (
        given[f"param.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    projected = torch.nn.functional.linear(given["in.x"], w_ih, b_ih)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    h = gru_parallel(
        projected,
        w_hh,
        b_hh,
        given["state0.h"],
        golden["start"],
        diagonal=diagonal,
        tolerance=tolerance,
    ).h
    golden.check("out.y", h)
    golden.check("state.h", h[:, -1])
    golden.check_gradients(h, given)


@both
def test_gradcheck(diagonal):
    inputs, start = leaves(1, 4, 2), torch.tensor([[False, False, True, False]])

    def states(*each: Tensor) -> Tensor:
        return gru_parallel(*each, start, diagonal=diagonal, tolerance=1e-14).h

    assert gradcheck(states, inputs)
    assert diagonal or gradgradcheck(states, inputs, fast_mode=True)


@both
def test_an_episode_of_n_steps_is_exact_after_n_iterations(diagonal):
    """Also if the recurrence expands so much that Newton's method does not converge otherwise."""
    inputs, start = leaves(3, 60, 8, scale=30.0), torch.zeros(3, 60, dtype=torch.bool)
    start[:, ::6] = True
    solution = gru_parallel(*inputs, start, diagonal=diagonal, tolerance=1e-13, max_iterations=6)
    assert not solution.sequential.any()
    torch.testing.assert_close(solution.h, loop(*inputs, start), rtol=1e-9, atol=1e-9)


@both
def test_episodes_that_do_not_converge_are_computed_step_by_step(diagonal):
    inputs, start = leaves(3, 20, 8, scale=30.0), starts(3, 20)
    start[2, ::2] = True
    grad = torch.randn(3, 20, 8).double()
    solution = gru_parallel(*inputs, start, diagonal=diagonal, tolerance=1e-13, max_iterations=3)
    assert solution.sequential.tolist() == [True, True, False]
    assert solution.iterations == 3
    assert solution.residual.max() <= 1e-13
    want = with_gradients(loop(*inputs, start), inputs, grad)
    got = with_gradients(solution.h, inputs, grad)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_newton_converges_quadratically_and_quasi_newton_does_not():
    inputs, start = leaves(2, 200, 16, scale=2.0), starts(2, 200)
    count = {
        (diagonal, tolerance): int(
            gru_parallel(*inputs, start, diagonal=diagonal, tolerance=tolerance).iterations
        )
        for diagonal in (False, True)
        for tolerance in (1e-3, 1e-12)
    }
    assert count[False, 1e-12] <= count[False, 1e-3] + 2
    assert count[True, 1e-12] >= 2 * count[True, 1e-3]


def test_damping_saves_iterations_if_the_recurrence_expands(monkeypatch):
    *inputs, start = *(x.detach() for x in leaves(1, 400, 48, scale=4.0)), torch.zeros(1, 400) > 0
    inputs[0] = 0.5 * inputs[0]
    damped = gru_parallel(*inputs, start)
    monkeypatch.setattr(newton_gru, "DAMPING", 1.0)
    plain = gru_parallel(*inputs, start)
    assert not damped.sequential
    assert damped.iterations < plain.iterations


@both
@pytest.mark.parametrize("value", [None, torch.nan, torch.inf], ids=["other", "nan", "inf"])
@pytest.mark.parametrize("begin", [0, 1, 6, 12])
def test_values_before_a_start_have_no_effect_after_it(diagonal, value, begin):
    projected, weight, bias, h0 = (x.detach() for x in leaves(3, 13, 4, scale=3.0))
    start = starts(3, 13)
    start[:, begin] = True
    found = []
    for spoiled in (False, True):
        x, first = projected.clone(), h0.clone()
        if spoiled:
            past = x[:, :begin]
            x[:, :begin] = 5 * past + 1 if value is None else value
            first = 5 * first + 1 if value is None else torch.full_like(first, value)
        x.requires_grad_()
        h = gru_parallel(x, weight, bias, first, start, diagonal=diagonal).h[:, begin:]
        found.append((h.detach(), torch.autograd.grad(h.square().sum(), x)[0][:, begin:]))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@both
def test_rows_are_independent(diagonal):
    projected, weight, bias, h0 = (x.detach() for x in leaves(3, 40, 6, scale=3.0))
    start = starts(3, 40)
    want = gru_parallel(projected, weight, bias, h0, start, diagonal=diagonal)
    projected[1] += 100.0
    got = gru_parallel(projected, weight, bias, h0, start, diagonal=diagonal)
    others = torch.tensor([True, False, True])
    assert torch.equal(got.h[others], want.h[others])
    assert torch.equal(got.residual[others], want.residual[others])


@both
def test_autocast_has_no_effect(diagonal):
    inputs, start = tuple(x.detach().float() for x in leaves(2, 9, 4)), starts(2, 9)
    inputs = tuple(x.requires_grad_() for x in inputs)
    want = gru_parallel(*inputs, start, diagonal=diagonal)
    grads = torch.autograd.grad(want.h.sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gru_parallel(*inputs, start, diagonal=diagonal)
        under = torch.autograd.grad(got.h.sum(), inputs)
    for a, b in zip([*got, *under], [*want, *grads], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("transposed", [False, True])
def test_dense_scan_equals_the_recurrence(transposed):
    inputs, start = leaves(3, 23, 4), starts(3, 23)
    projected, weight, bias, h0 = (x.detach() for x in inputs)
    at = newton_gru.evaluate(projected, weight, bias, torch.randn(3, 23, 4).double())
    derivative, value = newton_gru.differentiate(at, weight), torch.randn(3, 23, 4).double()
    got = newton_gru.dense_scan(derivative, value, start, transposed=transposed)
    x = torch.zeros_like(h0)
    for t in range(23):
        jacobian = derivative.at(slice(None), t).matrix()
        moved = (jacobian.mT if transposed else jacobian) @ x[..., None]
        x = torch.where(start[:, t, None], 0, moved.squeeze(-1)) + value[:, t]
        torch.testing.assert_close(got[:, t], x)


def test_the_derivative_equals_autograd():
    projected, weight, bias, h0 = (x.detach() for x in leaves(3, 1, 4))
    at = newton_gru.evaluate(projected, weight, bias, h0[:, None])
    derivative = newton_gru.differentiate(at, weight)

    def step(h: Tensor) -> Tensor:
        return loop(projected[:1], weight, bias, h[None], torch.zeros(1, 1, dtype=torch.bool))[0, 0]

    want = torch.autograd.functional.jacobian(step, h0[0])
    torch.testing.assert_close(derivative.matrix()[0, 0], want)
    torch.testing.assert_close(derivative.diagonal()[0, 0], want.diagonal())


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("radius", [0.01, 1.0])
def test_the_second_derivative_is_bounded(scale, radius):
    """The remainder of the linearisation is at most K |e|^2 / 2, and somewhere not far below it."""
    projected, weight, bias, _ = (x.detach() for x in leaves(1, 4000, 3, scale))
    before, e = torch.rand(2, 1, 4000, 3).double() * 2 - 1
    e = e * radius / torch.linalg.vector_norm(e, dim=-1, keepdim=True)
    at = newton_gru.evaluate(projected, weight, bias, before)
    moved = newton_gru.evaluate(projected, weight, bias, before + e).after
    rest = moved - at.after - newton_gru.differentiate(at, weight).times(e)
    used = 2 * torch.linalg.vector_norm(rest, dim=-1).max() / radius**2
    bound = newton_bound._second_derivative(at, weight, before, torch.tensor([radius]).double())
    assert 0.02 * bound < used <= bound


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("size", [4, 24])
def test_the_error_is_within_its_bound(tolerance, size):
    *inputs, start = *(x.detach() for x in leaves(3, 80, size, scale=0.8)), starts(3, 80)
    h = gru_parallel(*inputs, start, diagonal=True, tolerance=tolerance).h
    error = torch.linalg.vector_norm(h - loop(*inputs, start), dim=-1)
    bound, rho, residual, estimate = gru_error_bound(*inputs, start, h)
    torch.testing.assert_close(estimate, error, rtol=10 * tolerance, atol=1e-12)
    rounding = 1e-14
    assert (error <= bound + rounding).all()
    assert error.max() > 0.1 * bound.max(), "the bound is too loose"
    assert rho.max() < 1
    assert bound.max() <= 1.2 * (residual.amax(1) / (1 - rho)).max()


def test_the_bound_is_infinite_if_steps_expand():
    *inputs, start = *(x.detach() for x in leaves(2, 80, 8, scale=8.0)), torch.zeros(2, 80).bool()
    start[1, ::2] = True
    h = gru_parallel(*inputs, start, diagonal=True, tolerance=1e-8).h
    bound, rho, residual, _ = gru_error_bound(*inputs, start, h)
    assert rho[0] > 1
    assert bound[0].isinf().all()
    # Episodes of two steps are too short to expand.
    assert bound[1].max() < 100 * residual[1].max() + 1e-12


def test_a_distant_guess_gets_a_large_bound():
    *inputs, start = *(x.detach() for x in leaves(2, 30, 4)), torch.zeros(2, 30).bool()
    bound, *_ = gru_error_bound(*inputs, start, torch.zeros(2, 30, 4).double())
    error = torch.linalg.vector_norm(loop(*inputs, start), dim=-1)
    assert (error <= bound).all()


@both
def test_opcheck_and_compile(diagonal):
    inputs, start = leaves(2, 3, 2), torch.tensor([[False, True, False], [True, False, False]])
    options = (diagonal, 1e-10, 20)
    # The fourth of the usual checks compiles the operator, as the code below does.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = (*inputs, start, *options)
    torch.library.opcheck(newton_gru._solve, given, test_utils=checks)

    def states(*each: Tensor) -> Tensor:
        return gru_parallel(*each, start, diagonal=diagonal, tolerance=1e-10).h

    grad = torch.randn(2, 3, 2).double()
    compiled = torch.compile(states, backend="aot_eager", fullgraph=True)
    want = with_gradients(states(*inputs), inputs, grad)
    torch.testing.assert_close(with_gradients(compiled(*inputs), inputs, grad), want)


@both
@pytest.mark.parametrize("mapped", [(0,), (3, 4), (0, 3, 4), (1,), (0, 1, 2, 3, 4)], ids=str)
def test_vmap(diagonal, mapped):
    """Over single arguments and several at once."""
    inputs = [*(x.detach() for x in leaves(2, 5, 3)), torch.rand(2, 5) < 0.3]
    for i in mapped:
        inputs[i] = torch.stack([inputs[i], inputs[i].flip(0)])

    def states(*each: Tensor) -> Tensor:
        return gru_parallel(*each, diagonal=diagonal, tolerance=1e-13).h

    dims = tuple(0 if i in mapped else None for i in range(5))
    got = torch.func.vmap(states, dims)(*inputs)
    each = [[x[i] if k in mapped else x for k, x in enumerate(inputs)] for i in range(2)]
    torch.testing.assert_close(got, torch.stack([states(*x) for x in each]))


PROJECTED, WEIGHT, BIAS, H0 = (x.detach() for x in leaves(2, 5, 3))
START = torch.zeros(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROJECTED[0], WEIGHT, BIAS, H0, START), r"projected must be \[B, T, 3D\]"),
        ((PROJECTED[..., :8], WEIGHT, BIAS, H0, START), r"projected must be .* not \[2, 5, 8\]"),
        ((PROJECTED, WEIGHT[:6], BIAS, H0, START), r"weight must be \[9, 3\], not \[6, 3\]"),
        ((PROJECTED, WEIGHT, BIAS[:6], H0, START), r"bias must be \[9\], not \[6\]"),
        ((PROJECTED, WEIGHT, BIAS, H0[:1], START), r"h0 must be \[2, 3\], not \[1, 3\]"),
        ((PROJECTED, WEIGHT, BIAS, H0, START[:, 1:]), r"start must be \[2, 5\], not \[2, 4\]"),
        ((PROJECTED, WEIGHT, BIAS, H0, START.int()), r"start must be torch.bool"),
        (
            (PROJECTED, WEIGHT.float(), BIAS, H0, START),
            "weight is torch.float32; allowed are float64",
        ),
        (
            (*(x.bfloat16() for x in (PROJECTED, WEIGHT, BIAS, H0)), START),
            r"projected is torch.bfloat16; allowed are float32, float64",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        gru_parallel(*arguments)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_iterations": -1}], ids=str)
def test_bad_options_raise_an_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        gru_parallel(PROJECTED, WEIGHT, BIAS, H0, START, **options)


def test_a_solution_has_named_fields():
    solution = gru_parallel(PROJECTED, WEIGHT, BIAS, H0, START)
    assert isinstance(solution, Solution)
    assert solution.residual.shape == solution.sequential.shape == (2,)
